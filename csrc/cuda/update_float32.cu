// optimizer_step of float32 parameters.
#include "update.cuh"

namespace fastlayers::cuda {

template void update_list<float, float>(const Update&, Stream);
template void update_list<float, BFloat16>(const Update&, Stream);

}  // namespace fastlayers::cuda
