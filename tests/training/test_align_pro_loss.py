from __future__ import annotations

from itertools import product

import pytest
import torch

from steer_server.training.align_pro_loss import divergence_per_position, leave_one_out, policy_loss

BETA = 0.3
NUM_TOKENS, LENGTH = 3, 2


class Toy:
    """Sequences of two tokens out of three, the second's distribution depending on the first."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.first_V = torch.randn(NUM_TOKENS, generator=generator, dtype=torch.float64).requires_grad_()
        self.second_V_V = torch.randn(
            3, NUM_TOKENS, generator=generator, dtype=torch.float64
        ).requires_grad_()
        self.start = [torch.randn(3, dtype=torch.float64, generator=generator)]
        self.start.append(torch.randn(3, 3, dtype=torch.float64, generator=generator))
        self.reward = torch.randn(3, 3, dtype=torch.float64, generator=generator)

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [self.first_V, self.second_V_V]

    def log_prob(self, one: int, two: int, weights: list[torch.Tensor]) -> torch.Tensor:
        return weights[0].log_softmax(-1)[one] + weights[1][one].log_softmax(-1)[two]

    def divergence(self, one: int) -> torch.Tensor:
        """K of a rewrite that begins with `one`."""
        log_p = torch.stack([self.first_V.log_softmax(-1), self.second_V_V[one].log_softmax(-1)])
        log_q = torch.stack([self.start[0].log_softmax(-1), self.start[1][one].log_softmax(-1)])
        return divergence_per_position(log_p, log_q).sum()

    def objective(self) -> torch.Tensor:
        """E r - β KL by enumeration: KL = Σ_x' ρ(x') (log ρ(x') - log ρ_sft(x'))."""
        terms = []
        for one, two in product(range(NUM_TOKENS), repeat=LENGTH):
            log_p = self.log_prob(one, two, self.parameters)
            log_q = self.log_prob(one, two, self.start)
            terms.append(log_p.exp() * (self.reward[one, two] - BETA * (log_p - log_q)))
        return torch.stack(terms).sum()


def test_the_expected_gradient_is_that_of_reward_less_divergence_of_whole_rewrites() -> None:
    """Over every group of two that could be sampled, weighted by its probability."""
    toy = Toy()
    wanted = torch.autograd.grad(toy.objective(), toy.parameters)
    found = [torch.zeros_like(parameter) for parameter in toy.parameters]
    rewrites = list(product(range(NUM_TOKENS), repeat=LENGTH))
    for group in product(rewrites, repeat=2):
        log_prob_1_G = torch.stack([toy.log_prob(*x, toy.parameters) for x in group])[None]
        divergence_1_G = torch.stack([toy.divergence(one) for one, _ in group])[None]
        rewards_1_G = torch.stack([toy.reward[x] for x in group])[None]
        share = log_prob_1_G.detach().sum().exp()
        loss = policy_loss(log_prob_1_G, divergence_1_G, rewards_1_G, BETA)
        for total, gradient in zip(found, torch.autograd.grad(loss, toy.parameters), strict=True):
            total += share * gradient
    for gradient, objective in zip(found, wanted, strict=True):
        assert torch.allclose(gradient, -objective, atol=1e-12)


def test_the_mean_divergence_of_sampled_rewrites_is_the_divergence_of_the_policies() -> None:
    toy = Toy()
    weighted, exact = [], []
    for one, two in product(range(NUM_TOKENS), repeat=LENGTH):
        log_p, log_q = toy.log_prob(one, two, toy.parameters), toy.log_prob(one, two, toy.start)
        weighted.append(log_p.exp() * toy.divergence(one))
        exact.append(log_p.exp() * (log_p - log_q))
    assert torch.stack(weighted).sum().item() == pytest.approx(torch.stack(exact).sum().item(), rel=1e-12)


def test_an_advantage_is_the_reward_less_that_of_the_others() -> None:
    found = leave_one_out(torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]]))
    assert found.tolist() == [[pytest.approx(0.75), pytest.approx(-0.75), 0.0], [0.0, 0.0, 0.0]]


def test_a_divergence_is_nothing_for_equal_policies_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn(2, 50, 7, generator=generator).log_softmax(-1)
    assert divergence_per_position(log_p, log_p).abs().max() < 1e-6
    assert (divergence_per_position(log_p, log_q) > 0).all()
