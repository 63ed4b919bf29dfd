// optimizer_step of float16 parameters.
#include "update.cuh"

namespace fastlayers::cuda {

template void update_list<Half, Half>(const Update&, Stream);
template void update_list<Half, float>(const Update&, Stream);
template void update_list<Half, BFloat16>(const Update&, Stream);

}  // namespace fastlayers::cuda
