// optimizer_step and gradient_norm of the cuda backend: every number that is on the GPU is read there, so that nothing waits for it.
#include "cuda/optimizers.h"
#include "device_cuda.h"
#include "updates.h"

namespace fastlayers {
namespace {

// The table of a list, on the device.
struct DeviceList {
  at::Tensor memory;
  cuda::ListTable table;

  DeviceList(const Launching& launching, const std::vector<UpdateTensor>& tensors) {
    const int64_t count = tensors.size();
    std::vector<int64_t> host(cuda::table_bytes(count) / sizeof(int64_t));
    table = cuda::fill_table(host.data(), tensors.data(), count);
    memory = copy_to_device(launching, host);
    table.memory = memory.mutable_data_ptr();
  }
};

// A number as the kernel reads it; `kept` holds what had to be made for it.
cuda::StoredNumber stored(const Optional& number, const Launching& launching, std::vector<at::Tensor>& kept) {
  if (!number) return {nullptr, DataType::float32};
  const bool readable = number->device() == launching.device && find_data_type(number->scalar_type()) && !number->is_neg();
  kept.push_back(readable ? *number : number->resolve_neg().to(launching.device, at::kDouble));
  return {kept.back().const_data_ptr(), *find_data_type(kept.back().scalar_type())};
}

}  // namespace

bool is_skipped(const Optional&) { return false; }

void update(Work& work, const Scaling& scaling) {
  const Launching launching(work.device);
  std::vector<at::Tensor> kept;
  const DeviceList list(launching, work.tensors);
  cuda::Update u = {};
  u.rule = work.rule;
  u.param_type = work.type;
  u.state_type = work.state_type;
  std::copy(work.hyperparameters.begin(), work.hyperparameters.end(), u.hyperparameters);
  for (size_t i = 0; i < work.hyperparameter_tensors.size(); ++i) {
    u.tensors[i] = stored(work.hyperparameter_tensors[i], launching, kept);
  }
  std::copy(std::begin(work.flags), std::end(work.flags), u.flags);
  u.grad_scale = stored(scaling.grad_scale, launching, kept);
  u.found_inf = stored(scaling.found_inf, launching, kept);
  if (scaling.norm) u.squares = static_cast<const double*>(stored(scaling.norm->to(at::kDouble), launching, kept).address);
  u.max_norm = scaling.max_grad_norm;
  u.average_weight = 1 - work.ema_decay.value_or(0);
  if (work.seed) {
    kept.push_back(work.seed->to(launching.device, at::kLong));
    u.seed = reinterpret_cast<const uint64_t*>(kept.back().const_data_ptr<int64_t>());
  }
  u.plain = work.plain();
  u.list = list.table;
  cuda::optimizer_step(u, launching.stream);
  launching.check("optimizer_step");
}

at::Tensor squares_of(const std::vector<const GradientList*>& lists, at::Device device) {
  const Launching launching(device);
  std::vector<DeviceList> tables;
  int64_t chunks = 0;
  for (const GradientList* list : lists) {
    tables.emplace_back(launching, list->tensors);
    chunks += tables.back().table.chunks;
  }
  const at::Tensor partials = new_memory(launching, 2 * chunks, at::kDouble), result = new_memory(launching, 2, at::kDouble);
  double* partial = partials.mutable_data_ptr<double>();
  for (size_t i = 0; i < lists.size(); ++i) {
    cuda::sum_squares(lists[i]->type, tables[i].table, partial, chunks, launching.stream);
    partial += tables[i].table.chunks;
  }
  cuda::finish_squares(partials.const_data_ptr<double>(), chunks, result.mutable_data_ptr<double>(), launching.stream);
  launching.check("gradient_norm");
  return result;
}

}  // namespace fastlayers
