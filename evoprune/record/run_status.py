"""The progress of a run, in words."""

from evoprune.config.loading import round_configs
from evoprune.config.schema import Config
from evoprune.record.folder import RunFolder

FINISHED, DAMAGED = "finished", "damaged"


def status_of(folder: RunFolder, config: Config) -> str:
    """The progress of the run in a folder.

    Args:
        folder: the run folder.
        config: of the run, with its rounds.

    Returns:
        `finished`, `stopped before the search`, `stopped in generation 7` (the first one that is not complete) or
        `stopped in retraining`, with `of round 2` behind it if the run has rounds. A run that another process works on
        has the status that it would have if it stopped now.

    Raises:
        RunFolderError: a part of the folder is a link.
    """
    if folder.survivors_table.is_file():
        return FINISHED
    rounds = round_configs(config)
    number = 1
    while number < len(rounds) and folder.round(number).survivors_table.is_file():
        number += 1
    here = folder if number == len(rounds) else folder.round(number)
    of_round = f" of round {number}" if len(rounds) > 1 else ""
    complete = here.snapshot_generations()
    if not complete:
        return f"stopped before the search{of_round}"
    if complete[-1] >= rounds[number - 1].search.generations:
        return f"stopped in retraining{of_round}"
    return f"stopped in generation {complete[-1] + 1}{of_round}"
