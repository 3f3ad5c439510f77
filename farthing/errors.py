"""One exception tree: every mistake a user can make -> what was wrong, what was got, what is allowed, what to do next.

FarthingError
├── RecipeError          a recipe, a --set override or a flag is wrong          exit 2
├── DataError            a task, a dataset or a JSONL line is wrong             exit 2
├── ModelError           a model folder, checkpoint or GGUF cannot be used      exit 2
├── PriceError           no price, or a price record that cannot be read        exit 2
├── RunError             a run directory is missing, locked or inconsistent     exit 3
│   └── RunLocked        another process holds the run directory
├── LedgerError          the ledger does not add up or its chain is broken      exit 4
├── TrainingDiverged     NaN or infinity in a loss, a gradient or a weight      exit 5
├── DiskFull             no space left; the last good checkpoint is kept        exit 6
├── Interrupted          Ctrl-C: stopped cleanly with a checkpoint              exit 130
├── BudgetReached        the budget is spent: stopped cleanly with a checkpoint  exit 7
└── EndpointError        a teacher or judge is down, garbled, or refuses         exit 8

The command line prints the message without a traceback and leaves with the exit code.
"""

import errno
import pathlib


class FarthingError(Exception):
    """Base of all errors a user can cause or mend; `exit_code` is what the command line returns."""

    exit_code = 1


class RecipeError(FarthingError):
    exit_code = 2


class DataError(FarthingError):
    exit_code = 2


class ModelError(FarthingError):
    exit_code = 2


class PriceError(FarthingError):
    exit_code = 2


class RunError(FarthingError):
    exit_code = 3


class RunLocked(RunError):
    pass


class LedgerError(FarthingError):
    exit_code = 4


class TrainingDiverged(FarthingError):
    exit_code = 5


class DiskFull(FarthingError):
    exit_code = 6


class Interrupted(FarthingError):
    exit_code = 130


class BudgetReached(FarthingError):
    exit_code = 7


class EndpointError(FarthingError):
    exit_code = 8


def disk_error(path: pathlib.Path, error: OSError) -> FarthingError:
    """What to say where `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}; free some space and give the same command again")
    return RunError(f"cannot write {path}: {error}; check the folder's permissions, or use another --run-dir")
