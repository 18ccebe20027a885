"""Writes a model as one ONNX graph, and compares it in ONNX Runtime with the model itself.

The graph takes token ids, [batch, seq], and gives logits, [batch, seq, vocabulary]; both axes are dynamic. It has no
cache: every call reads the whole text. ``torch.onnx.export`` traces it with the attention mask given, because without
one the model asks whether a text has one token, which a dynamic axis cannot answer.
"""

import logging
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.core.atomic import replacing
from components.core.errors import ArtifactError, InputError
from components.model import ops
from components.model.transformer import Attention, Block, Transformer, rotate

TOKENS, LOGITS = "tokens", "logits"
# Of logits, in fp32: what other orders of the same sums leave, and no more.
TOLERANCE = 1e-3
_TRACED = (2, 8)
_COMPARED = ((1, 1), (2, 19))


class _Graph(nn.Module):
    """The model without caches and documents."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        length, model = tokens.shape[1], self.model
        position = torch.arange(length)
        later = position[None, :] > position[:, None]
        mask = torch.zeros(length, length).masked_fill(later, float("-inf"))[None, None]
        rotation = model.cosine[:length, None], model.sine[:length, None]
        hidden = model.embedding(tokens)
        for block in model.blocks:
            assert isinstance(block, Block)
            hidden = hidden + _attended(block.attention, block.attention_norm(hidden), rotation, mask)
            hidden = hidden + block.feed_forward(block.feed_forward_norm(hidden))
        return model.logits(model.norm(hidden))


def _attended(attention: Attention, hidden: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    query, key, value = (
        project(hidden).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.query, attention.key, attention.value)
    )
    mixed = ops.attention(rotate(query, *rotation), rotate(key, *rotation), value, mask=mask)
    output: Tensor = attention.output(mixed.flatten(-2))
    return output


def write_onnx(model: Transformer, path: Path) -> None:
    """Write ``model`` to ``path``.

    Raises ``InputError`` if the libraries are not installed, and ``ArtifactError`` if ONNX Runtime makes other logits
    of the file.
    """
    try:
        import onnxruntime  # noqa: F401 - compared at the end, but missing from the beginning
        import onnxscript  # noqa: F401 - of torch.onnx
    except ImportError as error:
        raise InputError("ONNX files need ONNX Runtime and onnxscript: pip install 'lacewing[onnx]'") from error
    # It warns of torchvision's operators, which no text model has.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=model.config.context_length)}
    program = torch.onnx.export(
        _Graph(model).eval(),
        (torch.zeros(_TRACED, dtype=torch.int64),),
        dynamo=True,
        dynamic_shapes=(axes,),
        input_names=[TOKENS],
        output_names=[LOGITS],
        verbose=False,
    )
    assert program is not None
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        if (found := difference(model, temporary)) > TOLERANCE:
            raise ArtifactError(
                f"ONNX Runtime makes other logits of the exported graph than the model does: they differ by {found:g}. "
                "Use format=gguf or format=huggingface"
            )


@torch.no_grad()
def difference(model: Transformer, path: Path) -> float:
    """The greatest difference between the logits of ``model`` and those of the file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(0)
    greatest = 0.0
    for shape in _COMPARED:
        tokens = torch.randint(model.vocab_size, shape, generator=draw)
        (theirs,) = session.run([LOGITS], {TOKENS: tokens.numpy()})
        apart = (torch.from_numpy(theirs) - model.logits(model(tokens))).abs().max()
        greatest = max(greatest, float(apart))
    return greatest
