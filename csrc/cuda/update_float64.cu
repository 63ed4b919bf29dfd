// optimizer_step of float64 parameters.
#include "update.cuh"

namespace fastlayers::cuda {

template void update_list<double, double>(const Update&, Stream);

}  // namespace fastlayers::cuda
