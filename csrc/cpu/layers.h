// All kernel tables of the layers, as the bindings choose between them.
#pragma once

#include "../capability.h"
#include "batch_norm.h"
#include "dropout_kernels.h"
#include "epilogue.h"
#include "gated.h"

FL_DECLARE_KERNELS(EpilogueKernels, epilogue_kernels)
FL_DECLARE_KERNELS(BatchNormKernels, batch_norm_kernels)
FL_DECLARE_KERNELS(DropoutKernels, dropout_kernels)
FL_DECLARE_KERNELS(GatedKernels, gated_kernels)
