from __future__ import annotations

import pickle

import pytest
from torch.utils.data import DataLoader

from unimedvl.errors import CheckpointError, ConfigError, DataError


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError, DataError])
def test_one_line_with_problem_place_and_remedy(kind):
    error = kind("steps is 1", where="options", remedy="use at least 2")
    assert str(error) == "steps is 1 (options); use at least 2"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.problem, again.where, again.remedy) == (
        str(error),
        "steps is 1",
        "options",
        "use at least 2",
    )


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("row 0 is torn", where="a.jsonl", remedy="mend it")


def test_errors_of_workers_keep_their_type():
    with pytest.raises(DataError, match="row 0 is torn"):
        list(DataLoader(Broken(), num_workers=1))
