"""Settings of labelling: who finds the tokens that state facts, and by which rules.

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, NonNegativeInt

Annotator = Literal["world", "spacy", "capitals", "calculations"]
RuleSet = Literal["ner_only", "pos_only", "ner+pos", "ner+pos+attr", "digits_only", "all", "none"]
ControlRules = Literal["digits_only", "all", "none"]
CONTROLS: tuple[ControlRules, ...] = get_args(ControlRules)
"""Rule sets that need no annotator."""

_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LabelConfig(BaseModel):
    """Which tokens state facts: one bit per token, made once on the CPU."""

    model_config = _SETTINGS

    annotator: Literal["auto"] | Annotator = "auto"
    """auto takes the exact labels of the closed world where the data has them, else the spaCy pipeline that is named,
    else an installed English one, else the rule `capitals` (capitalised words and digits), and says which.
    `calculations` marks the results of `<<48/2=24>>`, as in GSM8K, for a model that asks a calculator."""
    pipeline: str = ""
    """Any installed spaCy package or the path of a trained pipeline, for example en_core_web_sm. Empty: with auto, the
    best installed English one."""
    rules: RuleSet = "ner+pos"
    """What of a parse counts as fact: entities, parts of speech, attributes (`ner+pos+attr`), or a control
    (`digits_only`, `all`, `none`)."""
    subwords: Literal["all", "first", "span_first"] = "all"
    """Which subwords of a factual word carry the bit: all, the first of each word, the first of each run of words."""
    skip_copied: bool = False
    """Leave out words that the document has stated before: copying needs no knowledge."""
    processes: NonNegativeInt = 0
    """Processes that annotate; 0 takes one per physical core."""
    agreement_documents: NonNegativeInt = 200
    """Documents on which annotators are compared with each other, and with the exact labels where there are any."""
