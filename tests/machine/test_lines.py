"""Lines as they stand in logs of training jobs, and lines that are nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from premortem.machine.lines import classify, kinds, last_trouble, xid
from premortem.machine.rules import RULES

FAULTS = {
    "gpu_lost": (
        "RuntimeError: step: failed to synchronize: cudaErrorECCUncorrectable: uncorrectable ECC error encountered",
        "[default1]:  what():  CUDA error: unknown error",
        "terminate called after throwing an instance of 'c10::CUDAError'",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.",
        "RuntimeError: CUDA error: unspecified launch failure",
    ),
    "oom": (
        "RuntimeError: CUDA error: out of memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    "host_oom": (
        "Killed",
        "MemoryError",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 400000000 bytes. Error code 12 (Cannot allocate memory)",
        "Memory cgroup out of memory: Killed process 2083 (python3) total-vm:214964kB",
        "slurmstepd: error: Detected 1 oom-kill event(s) in step 7.batch",
        "command terminated with exit code 137",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 37.3 GiB for an array",
    ),
    "shm_exhausted": (
        "RuntimeError: DataLoader worker (pid 11) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
    ),
    "fp16_overflow": (
        "[2024-01-02 03:04:05,678] [INFO] [stage_1_and_2.py:1:step] [deepscale] OVERFLOW! Rank 3 Skipping step. "
        "Attempted loss scale: 65536.0, reducing to 32768.0",
        "Gradient overflow.  Skipping step, loss scaler 0 reducing loss scale to 8192.0",
    ),
    "config_vs_checkpoint": (
        "AssertionError: AnnealingLR: class input value 2e-06 and checkpointvalue 3e-05 for minimum learning rate do "
        "not match",
        "RuntimeError: Error(s) in loading state_dict for Model: size mismatch for head.weight",
    ),
    "gpu_memory_remap": ("NVRM: Xid (PCI:0000:10:1c): 63, pid=9, Row Remapper: New row marked for remapping",),
    "gpu_memory_remap_failed": ("NVRM: Xid (PCI:0000:91:1c): 64, ...",),
    "illegal_memory_access": (
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "NVRM: Xid (PCI:0000:10:1c): 31, pid=77, MMU Trouble",
    ),
    "xid": ("NVRM: Xid (PCI:0000:10:1c): 999, pid=77",),
    "device_assert": ("RuntimeError: CUDA error: device-side assert triggered",),
    "no_gpu": ("RuntimeError: No CUDA GPUs are available",),
    "gpu_busy": ("RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",),
    "cuda_error": ("RuntimeError: CUDA error: no kernel image is available for execution on the device",),
    "nccl_timeout": (
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE) ran for 1800 ms",
    ),
    "nccl_error": ("torch.distributed.DistBackendError: NCCL error in: x.cpp:1, ncclSystemError: System call failed",),
    "nan_loss": ("step 51 loss nan", "iteration 7 | lm loss: NaN | grad norm: 3.1", "Found NaN in gradients"),
    "disk_full": ("OSError: [Errno 28] No space left on device: '/ckpt/step-9.pt'",),
    "io_error": ("OSError: [Errno 116] Stale file handle",),
    "too_many_files": ("OSError: [Errno 24] Too many open files",),
    "job_missing": (
        "[2024-08-08 01:49:40] ***ALERT: my-round3.slurm is not RUNNING or SCHEDULED! Alert someone***",
        "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2024-01-01T00:00:00 DUE TO TIME LIMIT ***",
    ),
    "port_in_use": ("RuntimeError: The server socket has failed to listen: errno: 98 - Address already in use",),
    "permission": ("PermissionError: [Errno 13] Permission denied: '/data'",),
    "connection": (
        "requests.exceptions.ConnectionError: Max retries exceeded with url: /api",
        "ConnectionRefusedError: [Errno 111] Connection refused",
        "HTTPError: 503 Server Error: Service Unavailable for url",
        "TimeoutError: the read operation took too long",
    ),
    "import_error": ("ModuleNotFoundError: No module named 'flash_attn'",),
    "file_missing": ("FileNotFoundError: [Errno 2] No such file or directory: 'train.json'",),
    "segfault": ("Segmentation fault (core dumped)",),
    "checkpoint_broken": (
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
    ),
    "worker_died": ("RuntimeError: DataLoader worker (pid(s) 17) exited unexpectedly",),
    "assertion": ("AssertionError: expected 3 inputs",),
}
HEALTHY = (
    "step 400 loss 2.31 lr 3e-4 grad_norm 0.8 tokens 123456 time 0.52",
    "  0%|          | 0/1000 [00:00<?, ?it/s]",
    "[2022-01-19 13:16:17,683] [INFO] [logging.py:68:log_dist] [Rank 0] step=100, skipped=0, lr=[6e-05, 6e-05]",
    "INFO:root:saved checkpoint to /ckpt/step-137 in 2.0 s",
    "NCCL version 2.19.3+cuda12.3",
    "NCCL INFO Channel 00/02 : 0 1, timeout 1800000",
    "Using 0 dataloader workers, timeout 0",
    "loading state_dict from checkpoint ok, information follows",
    "max memory allocated: 61.2 GiB, exit code 0",
    "iteration 137 | lm loss: 2.1E+00 | grad norm: 0.9 | number of nan iterations: 0 | number of skipped iterations: 0",
    "skilled workers finance their room; banana",
    "",
    "x" * 100_000,
)


@pytest.mark.parametrize(("kind", "line"), [(kind, line) for kind, lines in FAULTS.items() for line in lines])
def test_a_line_has_its_class(kind: str, line: str) -> None:
    found = classify(line)
    assert found is not None
    assert found.kind == kind
    assert found.who in ("job", "machine", "service", "anyone")
    assert found.means


@pytest.mark.parametrize("line", HEALTHY)
def test_a_healthy_line_has_none(line: str) -> None:
    assert classify(line) is None


def test_every_class_has_a_line_here() -> None:
    assert set(FAULTS) == set(kinds())


def test_every_row_can_be_reached_by_its_tokens() -> None:
    assert all(rule.tokens and all(token == token.lower() for token in rule.tokens) for rule in RULES)


def test_an_xid_has_its_number() -> None:
    assert xid(FAULTS["gpu_memory_remap"][0]) == 63
    assert xid("no such thing") is None


def test_the_last_trouble_of_a_log_is_found() -> None:
    lines = [FAULTS["connection"][0], "step 1", FAULTS["disk_full"][0], "bye"]
    assert last_trouble(lines).kind == "disk_full"
    assert last_trouble(HEALTHY) is None


@given(st.text(max_size=300))
def test_no_line_raises(line: str) -> None:
    found = classify(line)
    assert found is None or found.kind in kinds()
