"""Settings of an export. Imports neither torch nor numpy: the command's process reads it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

Precision = Literal["f32", "f16", "q8_0", "q6_k", "q5_k", "q4_k"]


class ExportConfig(BaseModel):
    """What `lacewing export` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True)

    model: str = "champion"
    """A registered model by its alias or version, or the folder of a bundle."""
    into: str = "export"
    """Folder to write to."""
    format: Literal["gguf", "huggingface", "onnx"] = "gguf"
    """gguf: one file for llama.cpp, Ollama and LM Studio. huggingface: a folder for transformers and vLLM. onnx: a
    graph from token ids to logits, without a cache, for ONNX Runtime; with precision=f32."""
    precision: Precision = "f16"
    """Of the matrices. q8_0 stores 8.5 bits for each weight, q6_k 6.6, q5_k 5.5, q4_k 4.5; these are for gguf only."""
    documents: NonNegativeInt = 200
    """Held-out documents on which the loss of rounding is measured; 0: it is not measured."""
