// What the two files that bind optimizers share: lists of tensors read in place, and their checks.
//
// Lists are read tensor by tensor: with hundreds of small parameters a conversion to std::vector<at::Tensor> would take longer than
// the update. Everything is checked before anything is changed.
#pragma once

#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings_memory.h"
#include "updates.h"

namespace py = pybind11;

namespace fastlayers {
namespace {

// A Python list or tuple of tensors.
class Tensors {
 public:
  Tensors(const char* operation, const char* name, const py::object& given)
      : operation_(operation), name_(name), items_(py::reinterpret_steal<py::object>(PySequence_Fast(given.ptr(), ""))) {
    if (!items_) {
      PyErr_Clear();
      throw py::type_error(text(operation, ": ", name, " must be a list of tensors, got ", Py_TYPE(given.ptr())->tp_name));
    }
  }

  int64_t size() const { return PySequence_Fast_GET_SIZE(items_.ptr()); }

  const at::Tensor& operator[](int64_t i) const {
    PyObject* item = PySequence_Fast_GET_ITEM(items_.ptr(), i);
    if (!THPVariable_Check(item)) {
      throw py::type_error(text(operation_, ": ", name_, " must hold tensors, got ", Py_TYPE(item)->tp_name, " at position ", i));
    }
    return THPVariable_Unpack(item);
  }

  template <class Rule, class Value> [[noreturn]] void refuse(int64_t i, const Rule& rule, const Value& value) const {
    throw std::runtime_error(text(operation_, ": ", name_, " must ", rule, ", got ", value, " at position ", i));
  }

 private:
  const char* operation_;
  const char* name_;
  py::object items_;
};

DataType number_type(const Tensors& list, int64_t i) {
  if (const auto type = find_data_type(list[i].scalar_type())) return *type;
  list.refuse(i, "be float32, float64, float16 or bfloat16", list[i].scalar_type());
}

// Element i of a list, checked to be of this type, on this device, and to fill its memory.
const at::Tensor& dense(const Tensors& list, int64_t i, at::ScalarType type, at::Device device) {
  const at::Tensor& x = list[i];
  if (x.device() != device) list.refuse(i, text("be on ", device), x.device());
  if (x.layout() != at::kStrided) list.refuse(i, "be dense", x.layout());
  if (!in_memory(x)) list.refuse(i, "be held in memory as it is", "a lazily negated or zero tensor");
  if (x.scalar_type() != type) list.refuse(i, text("all be ", type), x.scalar_type());
  if (!x.is_non_overlapping_and_dense()) list.refuse(i, "fill their memory without gaps", text("strides ", x.strides()));
  return x;
}

// The same, and of the parameter's shape and memory order.
[[maybe_unused]] const at::Tensor& dense_like(const Tensors& list, int64_t i, at::ScalarType type, const at::Tensor& param) {
  const at::Tensor& x = dense(list, i, type, param.device());
  if (x.sizes() != param.sizes()) list.refuse(i, text("have their parameter's shape ", param.sizes()), x.sizes());
  if (!same_order(x, param)) list.refuse(i, text("have their parameter's strides ", param.strides()), x.strides());
  return x;
}

// States are of the parameters' type, or float32 or bfloat16 for any but float64.
bool supported(DataType type, DataType state_type) {
  return state_type == type ||
         (type != DataType::float64 && (state_type == DataType::float32 || state_type == DataType::bfloat16));
}

bool is_half(DataType type) { return type == DataType::float16 || type == DataType::bfloat16; }

UpdateTensor new_tensor(const at::Tensor& param, const at::Tensor& grad) {
  UpdateTensor tensor = {};
  tensor.param = param.mutable_data_ptr();
  tensor.grad = grad.const_data_ptr();
  tensor.numel = param.numel();
  return tensor;
}

// Autograd must see that parameters were written to. (No graph holds states and scalars.)
void mark_written(const Tensors& list) {
  for (int64_t i = 0; i < list.size(); ++i) list[i].unsafeGetTensorImpl()->bump_version();
}

}  // namespace
}  // namespace fastlayers
