"""HRM inference as a service: a worker process, a bounded queue, a cache, a fallback policy. ``docs/serve.md``."""

from premortem.stages.serve.service.config import ServiceConfig as ServiceConfig
from premortem.stages.serve.service.latency import Samples as Samples
from premortem.stages.serve.service.reply import Answer as Answer
from premortem.stages.serve.service.reply import Policy as Policy
from premortem.stages.serve.service.reply import Refused as Refused
from premortem.stages.serve.service.reply import Reply as Reply
from premortem.stages.serve.service.reply import Unknown as Unknown
from premortem.stages.serve.service.service import Service as Service
from premortem.stages.serve.service.service import running as running
from premortem.stages.serve.service.standin import Fallback as Fallback
from premortem.stages.serve.service.standin import MazeWalks as MazeWalks
