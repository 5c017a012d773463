from deepcuts.components.training import latency


def decoded(seconds: float, calls: list[str], name: str) -> latency.Decode:
    def decode(batch: int) -> float:
        calls.append(name)
        return seconds * batch

    return decode


def test_times_alternate_and_each_round_is_told():
    calls, told = [], []
    found = latency.compare(decoded(0.08, calls, "a"), decoded(0.04, calls, "b"), 2, 21, told.append)
    assert calls[:4] == ["b", "a", "a", "b"] and len(calls) == 44 and sum(told) == 22
    assert (found.reference_ms, found.candidate_ms) == (
        10,
        5,
    ) and found.low == found.ratio == found.high == 0.5


def test_a_slow_model_gets_fewer_rounds_and_all_are_told(monkeypatch):
    monkeypatch.setattr(latency, "MAX_SECONDS", 0.0)
    calls, told = [], []
    latency.compare(decoded(0.08, calls, "a"), decoded(0.04, calls, "b"), 1, 21, told.append)
    assert len(calls) == 2 * (1 + latency.MIN_ROUNDS) and sum(told) == 22
