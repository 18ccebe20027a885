"""The stage ``reference``: what the base makes of every answer, once, as a column beside the pairs.

So training has one model in memory, and every further run on the same pairs (another beta, another loss) starts at
once.
"""

import numpy as np
from jaxtyping import Float

from components.core.run import Run
from components.data.columns import ColumnsWriter, ColumnType
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.progress import progress
from components.finetune.preference.artifact import ANSWER, REFERENCE, Pairs, References
from components.finetune.preference.config import ReferenceConfig
from components.finetune.preference.log_probabilities import PairScores, scored
from components.training.loader import Batch
from components.training.trained import TrainedModel


def stage(run: Run, config: ReferenceConfig, *, pairs: Pairs, model: TrainedModel) -> References:
    """Write the log-probability of every answer under ``model``. Raises ``ArtifactError`` for damaged inputs."""
    network = model.load(scoring_device(config.device))
    columns = pairs.columns()
    with (
        autocast(network.output_weight.device, config.precision),
        ColumnsWriter(run.folder / References.COLUMNS, {REFERENCE: ColumnType(dtype="float32")}) as writer,
    ):
        for split in pairs.shards().splits:
            writer.append(split, {REFERENCE: np.zeros(1, dtype=np.float32)})  # the boundary that opens the split
            with progress(run, f"reading the answers of {split}", 0.0, 1.0) as report:
                for batch, scores in scored(network, pairs, split, columns, config.batch_windows, report):
                    writer.append(split, {REFERENCE: at_last_tokens(batch, scores)})
        writer.finish(pairs.shards())
    return run.seal({}, view=References)


def at_last_tokens(batch: Batch, scores: PairScores) -> Float[np.ndarray, " targets"]:
    """The log-probability of every answer at the last of its tokens, and zero elsewhere, row after row."""
    answer = batch.columns[ANSWER].numpy()
    slots = len(scores.valid) // len(answer)
    by_row = scores.log_probability.cpu().numpy().reshape(len(answer), slots, 2)
    row, place = np.nonzero((answer != 0) & (answer != np.roll(answer, -1, axis=1)))
    mark = answer[row, place]
    values = np.zeros(answer.shape, dtype=np.float32)
    values[row, place] = by_row[row, np.abs(mark), (mark < 0).astype(int)]
    return values.flatten()
