"""The table behind `lines.py`: pattern, class, who acts, what it means. The first row that fits wins.

`who`: `job` (its settings or code), `machine` (its owner or administrator), `service` (what is called), `anyone`.
`needs` is lower case; a line with none of a row's needs cannot fit it, which keeps the usual line cheap.
Source: torch and NCCL messages; NVIDIA's Xid catalogue; public logs of bigscience and m4 (fault_lines.csv is scored
by `benchmarks/fault_lines.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One row."""

    kind: str
    pattern: str
    needs: str
    who: str
    means: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """Of which one must stand in the line, in lower case."""
        return tuple(self.needs.split("|"))


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a line tells of."""

    kind: str
    who: str
    means: str
    line: str


_LOST = "the device or its driver is lost to this process; end it, check the device, start again from the checkpoint"
_XID = r"\bXid\b\s*(?:\([^)]*\))?\s*:\s*"
_NET = "a service did not answer; what calls it retries with a bound, or goes on without it"

RULES: tuple[Rule, ...] = (
    # the driver's own words, by number
    Rule(
        "gpu_memory_remap",
        _XID + r"63\b|row remapper: new row marked",
        "xid|row remapper",
        "machine", "a bad row of device memory is replaced at the next reset: drain the node and reset the device",
    ),
    Rule(
        "gpu_memory_remap_failed",
        _XID + r"64\b|row remapper: (?:error|fail)",
        "xid|row remapper",
        "machine", "a bad row could not be replaced: take the device out",
    ),
    Rule(
        "illegal_memory_access",
        _XID + r"(?:31|13)\b",
        "xid",
        "job", "a kernel touched memory that is not its own: most often code, now and then the device",
    ),
    Rule(
        "gpu_lost",
        _XID + r"(?:43|45|46|48|61|62|69|74|79|92|94|95|109|119|120|121|123|"
        r"136|140|143|144|145|146|147|148|149|150)\b|fallen off the bus|gpu is lost|"
        "unable to determine the device handle",
        "xid|fallen off the bus|gpu is lost|device handle",
        "machine", _LOST,
    ),
    Rule(
        "xid",
        _XID + r"\d+",
        "xid",
        "machine", "an error that the driver reports; look its number up",
    ),
    # memory
    Rule(
        "shm_exhausted",
        "signal: bus error|out of shared memory|raise your shared memory limit|"
        "unable to open shared memory|shm_open|/dev/shm.*no space|no space left.*?/dev/shm|"
        "insufficient shared memory",
        "bus error|shared memory|shm_open|/dev/shm",
        "job", "/dev/shm is full: fewer workers, or more shared memory for the container",
    ),
    Rule(
        "host_oom",
        r"defaultcpuallocator|\bmemoryerror\b|cannot allocate memory|memory cgroup out of memory|"
        r"out of memory: kill|oom-kill|oomkilled|oom_kill|detected \d+ oom|std::bad_alloc|"
        r"unable to allocate|\bexit(?:ed)?(?: with)?(?: code| status)? ?:? ?137\b|"
        r"killed by signal: killed|^\s*killed\s*$|\bkilled\s{3,}|exceeded (?:job |step )?memory limit|"
        r"died with <?signals?\.sigkill",
        "defaultcpuallocator|memoryerror|cannot allocate|out of memory|oom|bad_alloc|unable to all|"
        "137|killed|memory limit|sigkill",
        "job", "the host has no memory left for it: fewer jobs, a smaller batch, fewer workers, or find the leak",
    ),
    Rule(
        "oom",
        "out of memory|outofmemoryerror|cublas_status_alloc_failed|cudnn_status_alloc_failed|"
        "cudaerrormemoryallocation|resource_exhausted",
        "out of memory|outofmemory|alloc_failed|memoryallocation|resource_exhausted",
        "job", "the device has no memory left: accumulate smaller batches, recompute activations, or less at once",
    ),
    # devices
    Rule(
        "device_assert",
        r"device-side assert|assertion `.*` failed.*(?:block|thread)|indexing\.cu|cudaerrorassert",
        "device-side|assertion `|indexing.cu|errorassert",
        "job", "an index is out of range in a kernel, a label or token most often; run on the CPU to see where",
    ),
    Rule(
        "illegal_memory_access",
        "illegal memory access|cudaerrorillegaladdress|misaligned address|illegal instruction",
        "illegal|misaligned",
        "job", "a kernel touched memory that is not its own; the process cannot go on, start again from the checkpoint",
    ),
    Rule(
        "gpu_busy",
        r"all cuda-capable devices are busy|device\(s\) is/are busy|cudaerrordevicesunavailable|"
        "device.*(?:exclusive|prohibited) mode",
        "busy|unavailable|exclusive|prohibited",
        "machine", "someone else holds the device: wait with a bound, or choose another",
    ),
    Rule(
        "no_gpu",
        "no cuda gpus are available|no cuda-capable device|no nvidia driver|"
        "nvidia driver on your system is too old|not compiled with cuda|"
        "couldn't communicate with the nvidia driver|driver/library version mismatch",
        "no cuda|nvidia driver|not compiled with cuda|version mismatch",
        "machine", "no usable device or driver here: look at the driver, or run on the CPU",
    ),
    Rule(
        "nccl_timeout",
        r"watchdog caught collective operation timeout|nccl.*(?:timed out|timeout(?! ?=? ?:? ?\d))|"
        "(?:timed out|timeout).*(?:allreduce|all_reduce|allgather|broadcast)|socket timeout.*store|"
        r"gloo.*(?:timed out|timeout(?! ?=? ?:? ?\d))|monitoredbarrier",
        "watchdog caught|nccl|timeout|timed out|gloo|monitoredbarrier",
        "anyone", "a rank did not come to a collective: find the one that died or hangs first",
    ),
    Rule(
        "nccl_error",
        "ncclsystemerror|ncclinternalerror|ncclunhandledcudaerror|ncclremoteerror|ncclinvalidusage|"
        r"nccl (?:error|failure)|nccl warn|\bNET/IB\b.*(?:error|fail)",
        "nccl|net/ib",
        "machine", "communication between devices broke: another rank ended, or the network or link is at fault",
    ),
    Rule(
        "gpu_lost",
        "uncorrectable ecc|eccuncorrectable|cuda error: unknown error|cudaerrorunknown|"
        "c10::cudaerror|unspecified launch failure|cudaerrorlaunchfailure|"
        "an error was encountered.*ecc|device not ready|hardware failure|cudaerrornotready|"
        "nvlink.*(?:error|fail)|cuda driver error",
        "ecc|cuda error|cudaerror|launch failure|device not ready|hardware failure|nvlink|"
        "driver error",
        "machine", _LOST,
    ),
    Rule(
        "cuda_error",
        "cuda (?:runtime )?error|no kernel image is available|cublas_status|cudnn_status",
        "cuda|no kernel image|cublas_status|cudnn_status",
        "anyone", "an error of the device's software: the message names it; the process cannot go on",
    ),
    # numbers
    Rule(
        "fp16_overflow",
        "overflow!.*skipping step|attempted loss scale|gradient overflow|reducing loss scale|"
        "loss scale.*minimum|minimum loss scale|grad scaler.*inf",
        "overflow|loss scale|grad scaler",
        "job", "a step in half precision was skipped: harmless now and then, a divergence when it goes on",
    ),
    Rule(
        "nan_loss",
        r"\bloss\b[^a-z]{0,24}\b(?:nan|[+-]?inf)\b|\bnan\b.*\bloss\b|\b(?:nan|inf)\b.*(?:gradient|"
        r"grad norm|weights)|(?:gradient|grad_?norm|weights)[^a-z]{0,24}\b(?:nan|inf)\b|found nan|"
        "contains? nan|non-?finite",
        "nan|inf",
        "job", "numbers are no longer finite: restore the last good checkpoint, look at the data",
    ),
    # settings
    Rule(
        "config_vs_checkpoint",
        "checkpoint ?value|do(?:es)? not match.*checkpoint|checkpoint.*do(?:es)? not match|"
        r"size mismatch for|missing key\(s\) in state_dict|unexpected key\(s\) in state_dict|"
        r"error\(s\) in loading state_dict|different number of parameter groups|"
        "parameter group.*doesn't match",
        "checkpoint|size mismatch|state_dict|parameter group",
        "job", "settings and checkpoint contradict each other: a restart repeats it, mend the settings",
    ),
    Rule(
        "checkpoint_broken",
        "pytorchstreamreader failed|invalid header or archive|unpicklingerror|ran out of input|"
        "failed finding central directory|safetensor.*(?:invalid|incomplete)|checkpoint.*corrupt|"
        "corrupt.*checkpoint",
        "pytorchstreamreader|archive|unpickling|ran out of input|central directory|safetensor|corrupt",
        "job", "a checkpoint is damaged: load an older one that verifies",
    ),
    # the machine
    Rule(
        "disk_full",
        r"no space left on device|disk quota exceeded|errno 28\b|errno 122\b|enospc|"
        "write failed.*quota",
        "no space|quota|errno 28|errno 122|enospc",
        "machine", "the storage is full: delete what may go before the next checkpoint",
    ),
    Rule(
        "io_error",
        r"input/output error|errno 5\b|stale file handle|read-only file system|transport endpoint",
        "input/output|errno 5|stale file|read-only file|transport endpoint",
        "machine", "the storage itself fails: another path, and tell its owner",
    ),
    Rule(
        "too_many_files",
        r"too many open files|errno 24\b|emfile",
        "too many open|errno 24|emfile",
        "job", "file handles ran out: fewer workers, or a higher limit",
    ),
    Rule(
        "job_missing",
        "is not running or scheduled|slurmstepd: error|due to time limit|due to preemption|"
        r"\bjob\b.*\b(?:cancelled|preempted|not found|disappeared)\b|cancelled at .* due to",
        "not running|slurmstepd|time limit|preempt|cancelled|not found|disappeared",
        "anyone", "the job is not there any more: the scheduler ended it, or it was never started again",
    ),
    Rule(
        "port_in_use",
        r"address already in use|eaddrinuse|errno 98\b|port \d+ is (?:already )?in use",
        "already in use|eaddrinuse|errno 98|in use",
        "job", "another process holds the port",
    ),
    Rule(
        "permission",
        r"permission denied|permissionerror|operation not permitted|errno 13\b|access denied|"
        r"\b403\b.*forbidden|\b401\b.*unauthori[sz]ed|invalid (?:api key|credentials)|gated repo",
        "permission|not permitted|errno 13|access denied|forbidden|unauthori|invalid api|"
        "invalid cred|gated repo",
        "anyone", "a right is missing: a restart repeats it",
    ),
    # services
    Rule(
        "connection",
        "connection (?:refused|reset|aborted|error|closed|timed out)|connectionerror|"
        "connectionrefused|connectionreset|connecttimeout|readtimeout|timeouterror|"
        "max retries exceeded|temporary failure in name|name or service not known|"
        r"network is unreachable|no route to host|errno 11[0-3]\b|broken ?pipe|"
        r"\b50[0234]\b (?:server error|bad gateway|service unavailable|gateway)|remote end closed|"
        "ssl.*error|rendezvous.*(?:error|timeout|timed)|too many requests",
        "connection|connecttimeout|readtimeout|timeouterror|retries|name resolution|"
        "temporary failure|service not|unreachable|no route|errno 11|brokenpipe|broken pipe|"
        "server error|bad gateway|gateway|remote end|ssl|rendezvous|too many requests",
        "service", _NET,
    ),
    # code
    Rule(
        "import_error",
        "modulenotfounderror|importerror|no module named|cannot import name|undefined symbol|"
        "cannot open shared object file|version `?glibc",
        "modulenotfound|importerror|no module|cannot imp|undefined symbol|shared object|glibc",
        "job", "the environment is not the one that the code needs",
    ),
    Rule(
        "file_missing",
        r"filenotfounderror|no such file or directory|errno 2\b",
        "filenotfound|no such file|errno 2",
        "job", "a path is wrong or not mounted: a restart repeats it",
    ),
    Rule(
        "segfault",
        r"segmentation fault|sigsegv|core dumped|sigabrt|\baborted\b\s*$|double free|corrupted size",
        "segmentation|sigsegv|core dumped|sigabrt|aborted|double free|corrupted size",
        "job", "native code crashed: faulthandler shows where",
    ),
    Rule(
        "worker_died",
        "dataloader worker .* (?:is killed|exited)|childfailederror|worker.*died|"
        r"processexitedexception|sending process .* closing signal|exitcode\s*:\s*-\d+",
        "dataloader worker|childfailed|died|processexited|closing signal|exitcode",
        "anyone", "a process of the job died and took the others along: its own lines say why",
    ),
    Rule(
        "assertion",
        "assertionerror|assertion.*failed",
        "assertion",
        "job", "the code refuses to go on: a restart repeats it",
    ),
)  # fmt: skip
