// What bindings ask of the CUDA runtime library. No CUDA headers.
#pragma once

struct CUstream_st;

namespace fastlayers::cuda {

using Stream = CUstream_st*;

// What is wrong with a launch since the last call, or nullptr.
const char* launch_error();

// Whether launches become part of a CUDA graph.
bool is_capturing(Stream stream);

}  // namespace fastlayers::cuda
