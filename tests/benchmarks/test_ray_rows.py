"""On Ray, 200,000 rows give what they give in one process."""

import pytest

from tests.benchmarks import ray_rows
from tests.conftest import SHARED

# minutes: 200,000 rows twice
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("step", ray_rows.OUTPUTS)
def test_two_workers_make_of_200_000_rows_what_a_local_run_does(step, tmp_path):
    pytest.importorskip("ray", reason='pip install "deepcuts[ray]"')
    if not SHARED.exists():
        pytest.skip(f"needs the real data in {SHARED} (python -m tests.public_data)")
    ray_rows.WRITE[step](tmp_path, 200_000)
    _, local = ray_rows.measured(tmp_path, step, "local", 200_000)
    _, two = ray_rows.measured(tmp_path, step, "ray-2", 200_000)
    assert two == local
