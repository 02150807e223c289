import torch

from mlml.seeds import AT_ONCE, Derived, derive, seed_everything, seed_torch


def test_seeds_by_a_count_are_those_of_one_by_one_in_any_order():
    seeds = Derived(3, "step", behind=(1,))
    for n in (0, 1, AT_ONCE - 1, AT_ONCE, 5, 7 * AT_ONCE + 3, 0):
        assert seeds(n) == derive(3, "step", n, 1)
    assert Derived("a")(2) == derive("a", 2) != derive("a", 2, 1)


def test_torch_draws_what_the_seed_says():
    seed_everything(1, "init")
    first = torch.rand(3)
    torch.rand(3)
    seed_torch(derive(1, "init"))
    assert torch.equal(torch.rand(3), first)
