// optimizer_step of bfloat16 parameters.
#include "update.cuh"

namespace fastlayers::cuda {

template void update_list<BFloat16, BFloat16>(const Update&, Stream);
template void update_list<BFloat16, float>(const Update&, Stream);

}  // namespace fastlayers::cuda
