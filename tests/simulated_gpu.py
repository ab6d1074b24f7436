"""A GPU that is none: tensors that say they are on cuda:0 and hold their numbers on the CPU.

Inside `SimulatedGpu`, what is moved to cuda:0 is there as far as torch can tell. Operations refuse tensors of
two devices as CUDA's do, and each wait of the host for the device is noted: a number read, a copy either way
that is not asked for with `non_blocking`, a result whose size depends on values. The numbers are the CPU's:
a run's images can be compared with those of a run without.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
aten = torch.ops.aten

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);
"""

#: The size of the result depends on values, so the host waits for them.
WAITS = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.bincount.default,
    aten.repeat_interleave.Tensor, aten.equal.default, aten.is_nonzero.default,
}  # fmt: skip
#: Tensors of indices may be on the host; each is then sent.
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
#: Indexing from Python, where indices may be a list.
INDEXED = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
#: A tensor's number as one of Python's.
READ = {torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__index__}
#: The simulated GPUs that are on, the present one last.
ON: list["SimulatedGpu"] = []


def register_guard() -> None:
    """Tell torch built without CUDA how to make cuda:0 the present device: nothing to do. Once a process."""
    if torch.version.cuda is not None or getattr(register_guard, "done", False):
        return
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("a torch without CUDA needs g++ to take tensors for cuda:0")
    place, root = Path(mkdtemp()), Path(torch.__file__).parent
    (place / "guard.cpp").write_text(GUARD)
    words = [compiler, "-shared", "-fPIC", "-std=c++20", "-O0", f"-I{root / 'include'}", f"-L{root / 'lib'}"]
    words += [str(place / "guard.cpp"), "-o", str(place / "guard.so"), "-lc10"]
    subprocess.run(words, check=True, capture_output=True)
    ctypes.CDLL(str(place / "guard.so"))
    shutil.rmtree(place)
    register_guard.done = True


class GpuTensor(torch.Tensor):
    """A tensor on the simulated GPU; `inner` has its numbers."""

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        if inner.is_meta:  # accelerate takes weights off the device by making their class of nothing
            return torch.nn.Parameter(inner, requires_grad)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
            requires_grad=False,
        )
        made.inner = inner
        return made

    def __repr__(self, **_):
        return f"GpuTensor({self.inner})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in INDEXED and isinstance(args[1], list):  # torch sends a list to the device past any mode
            args = (args[0], torch.tensor(args[1]), *args[2:])
        elif func in READ:  # also within `torch.tensor`, past any mode
            ON[-1].waits.append(aten._local_scalar_dense.default.name()) if ON else None
            return func(args[0].inner)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, [], [])


class SimulatedGpu(TorchDispatchMode):
    """While it is on, cuda:0 is there. `waits`: what the host waited for, with the operation's name."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.sent = []
        """(bytes, shape) of each tensor that came from the host."""

    def __enter__(self):
        register_guard()
        self.before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self.cuda = {name: getattr(torch.cuda, name) for name in ("_lazy_init", "get_device_properties")}
        torch.cuda._lazy_init = lambda: None
        torch.cuda.get_device_properties = lambda device: SimpleNamespace(total_memory=24 << 30)
        ON.append(self)
        return super().__enter__()

    def __exit__(self, *error):
        ON.pop()
        torch.__future__.set_overwrite_module_params_on_conversion(self.before)
        for name, function in self.cuda.items():
            setattr(torch.cuda, name, function)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, self.waits, self.sent)


def run(func, args, kwargs, waits, sent):
    """One operation."""
    flat = tree_flatten((args, kwargs))[0]
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    on_gpu = any(isinstance(each, GpuTensor) for each in tensors)
    asked = next((each for each in flat if isinstance(each, torch.device)), None)
    if not on_gpu and (asked is None or asked.type != "cuda"):
        return func(*args, **kwargs)
    host = [each for each in tensors if not isinstance(each, GpuTensor)]
    waited = not kwargs.get("non_blocking", False)
    to_gpu = on_gpu if asked is None else asked.type == "cuda"
    if func is aten._local_scalar_dense.default or func in WAITS:
        waits.append(func.name())
    elif func is aten._to_copy.default:
        if to_gpu and host:
            sent.append((host[0].nbytes, tuple(host[0].shape)))
        if waited and to_gpu != on_gpu:
            waits.append(f"{func.name()} {'to' if to_gpu else 'from'} the device, {tuple(tensors[0].shape)}")
    elif func is aten.copy_.default:
        if waited and host:
            waits.append(f"{func.name()}, {tuple(tensors[0].shape)}")
        to_gpu = isinstance(args[0], GpuTensor)
    elif func in INDEXING:
        indices = [each for each in args[1] if each is not None]
        if any(not isinstance(each, GpuTensor) for each in indices):
            waits.append(f"{func.name()} of indices on the host")
        elif any(each.dtype in (torch.bool, torch.uint8) for each in indices):
            waits.append(f"{func.name()} by a mask")
    elif on_gpu and any(each.dim() for each in host):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func.name()} was given cuda:0 and cpu"
        )
    plain, named = tree_map(_inner, (args, kwargs))
    made = func(*plain, **named)
    if not to_gpu:
        return made
    wrapped = tree_map(lambda x: GpuTensor(x) if isinstance(x, torch.Tensor) else x, made)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if on_gpu else wrapped


def _inner(x):
    if isinstance(x, GpuTensor):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == "cuda" else x
