"""What decides a result of the harness besides code and settings: task files and their data."""

from collections.abc import Sequence

from components.core.identity import digest_file
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.harness.data import DataMissingError, data_path
from components.evaluation.harness.task_files import chosen, own_task_files


def sources(tasks: Sequence[str], config: HarnessConfig) -> dict[str, str]:
    """Digests by what they are of, for those of ``tasks`` that are the harness's; imports neither torch nor lm-eval."""
    files = own_task_files(config.tasks)
    found: dict[str, str] = {}
    for name in chosen(tasks, files):
        file = files[name]
        found[f"task {name}"] = digest_file(file.path)
        for split in file.splits if file.data_files is not None else []:
            try:
                found[f"{split} data of {name}"] = digest_file(data_path(file, config.data, split))
            except DataMissingError:
                found[f"{split} data of {name}"] = "missing"
    return found
