"""Sets that are known by name: where they are now, and what their rows must have.

The fourteen that the agent forge's premortem names, under the names by which it names them. Hubs move sets, and
the hub's own library refuses names without an owner (`gsm8k`) from version 2 on: each entry says where the set
lives now. Written from published documentation with no network at hand: places, configurations and columns have
not been asked of the hub. `premortem check data --register agent-forge` asks; a set that is elsewhere is reported,
never assumed, and is put right in a file of your own (docs/data.md). The addresses carry no hash, because no
publisher names one: their first fetch is checked for length and form only.
"""

from __future__ import annotations

from premortem.stages.data.source import Mirror, Source

_RAW = "https://raw.githubusercontent.com"
_GSM8K = f"{_RAW}/openai/grade-school-math/master/grade_school_math/data/train.jsonl"
_HELLASWAG = f"{_RAW}/rowanz/hellaswag/master/data/hellaswag_train.jsonl"
_HOTPOT = "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_train_v1.1.json"
_BOOLQ = "https://storage.googleapis.com/boolq/train.jsonl"
_SCRIPT = "a loading script, which no library runs any more: the hub's parquet export, or another owner's copy"
_ALL_IN_ONE = "its authors' git repository has all splits in one file: no mirror for a split"


def _hub(*places: str, url: str = "") -> tuple[Mirror, ...]:
    """Each place by the hub's API, the first by the library's own loading, then the address."""
    by_library = Mirror("datasets", places[0])
    return (*(Mirror("hub", place) for place in places), by_library, *([Mirror("url", url)] if url else []))


CATALOGUE: tuple[Source, ...] = (
    Source(name="gsm8k", config="main", columns=("question", "answer"), mirrors=_hub("openai/gsm8k", url=_GSM8K)),
    Source(name="ChilleD/SVAMP", columns=("Body", "Question", "Answer"), mirrors=_hub("ChilleD/SVAMP"),
           note=_ALL_IN_ONE),
    Source(name="MU-NLPC/Calc-asdiv_a", split="test", columns=("question", "chain", "result"),
           mirrors=_hub("MU-NLPC/Calc-asdiv_a"), note="published with a test split only"),
    Source(name="mbpp", config="full", columns=("text", "code", "test_list"),
           mirrors=_hub("google-research-datasets/mbpp"), note=_ALL_IN_ONE),
    Source(name="microsoft/codexglue", config="python", columns=("code", "docstring"),
           mirrors=_hub("google/code_x_glue_ct_code_to_text"),
           note="a family of tasks, one set a task; the source does not say which: code to text, in Python"),
    Source(name="ai2_arc", config="ARC-Challenge", columns=("question", "choices", "answerKey"),
           mirrors=_hub("allenai/ai2_arc")),
    Source(name="hotpot_qa", config="distractor", columns=("question", "answer", "context"),
           mirrors=_hub("hotpotqa/hotpot_qa", url=_HOTPOT)),
    Source(name="drop", columns=("passage", "question", "answers_spans"), mirrors=_hub("ucinlp/drop")),
    Source(name="wics/strategy-qa", split="test", columns=("question", "answer"),
           mirrors=_hub("wics/strategy-qa", "ChilleD/StrategyQA"), note=_SCRIPT),
    Source(name="piqa", columns=("goal", "sol1", "sol2", "label"), mirrors=_hub("ybisk/piqa", "baber/piqa"),
           note=_SCRIPT),
    Source(name="hellaswag", columns=("ctx", "endings", "label"), mirrors=_hub("Rowan/hellaswag", url=_HELLASWAG)),
    Source(name="boolq", columns=("question", "answer", "passage"), mirrors=_hub("google/boolq", url=_BOOLQ)),
    Source(name="wikitext", config="wikitext-103-raw-v1", columns=("text",), mirrors=_hub("Salesforce/wikitext")),
    Source(name="HuggingFaceFW/fineweb-edu", config="sample-10BT", columns=("text", "id", "url"), max_files=1,
           mirrors=_hub("HuggingFaceFW/fineweb-edu"),
           note="the first file of the sample, about 2 GB; the whole sample has some 27 GB"),
)  # fmt: skip
AGENT_FORGE = tuple(source.name for source in CATALOGUE)


def by_name() -> dict[str, Source]:
    """The catalogue by name."""
    return {source.name: source for source in CATALOGUE}
