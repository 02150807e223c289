import pytest
import torch

from benchmarks import agreement


def curves(shift, spread=0.1, steps=60):
    """Two falling losses with noise of their own, one of which lies `shift` higher from the middle on."""
    generator = torch.Generator().manual_seed(0)
    trend = torch.linspace(2, 1, steps)
    first, second = trend + spread * torch.randn(2, steps, generator=generator)
    second[steps // 2 :] += shift
    return first, second


def test_noise_agrees_and_a_late_shift_does_not():
    assert agreement.compare(*curves(0.0)).agrees
    assert not agreement.compare(*curves(0.3)).agrees


def test_means_and_errors_are_those_of_the_windows():
    first, second = curves(0.2)
    found = agreement.compare(first, second[:45])
    assert len(found.means) == 4
    for k in range(4):
        own, other = (row[11 * k : 11 * k + 11].double() for row in (first, second))
        assert found.means[k] == pytest.approx(own.mean().item())
        assert found.differences[k] == pytest.approx((own - other).mean().item())
        assert found.errors[k] == pytest.approx((own - other).std().item() / 11**0.5)


def test_few_steps_are_refused():
    with pytest.raises(ValueError, match="at least 10 steps; got 9"):
        agreement.compare(torch.zeros(9), torch.zeros(20))


def test_the_bound_holds_for_all_windows_together():
    generator = torch.Generator().manual_seed(0)
    called = sum(not agreement.compare(*torch.randn(2, 60, generator=generator)).agrees for _ in range(1000))
    assert 1 <= called <= 30  # 10 on average
    assert agreement.compare(*torch.randn(2, 27, generator=generator), most_windows=1).bound == pytest.approx(
        2.78, abs=0.01
    )
