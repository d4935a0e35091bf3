"""The gradient of Align-Pro's objective: reward of the frozen model's answer, less divergence from the start.

    J = E_x E_{x' ~ ρ(.|x)} [ r(x, x') ] - β E_x KL(ρ(.|x) ‖ ρ_sft(.|x))

over whole rewrites x', estimated without bias from a group of G that ρ itself has sampled (on-policy: one
step per group, so that there are no importance ratios and nothing to clip).

The divergence is that of the distributions at every position of a sampled rewrite, over the whole vocabulary,
`K(x') = Σ_t KL(ρ(.|x'_<t) ‖ ρ_sft(.|x'_<t))`, whose mean is KL(ρ ‖ ρ_sft). Its variance is smaller than that
of estimates from the sampled token alone, such as k3, whose gradient as a loss is moreover that of the
opposite divergence KL(ρ_sft ‖ ρ).

Advantages are not divided by their standard deviation nor losses by lengths: both would favour some prompts
and lengths over others, and what β means would change from group to group.

*Source*: Align-Pro, arXiv 2501.03486; the divergence and its gradient, arXiv 2504.10637 and 2506.09477.
"""

from __future__ import annotations

import torch


def leave_one_out(rewards_N_G: torch.Tensor) -> torch.Tensor:
    """Advantages within groups, `[N, G]`, G ≥ 2: `A_i = r_i - mean_{j≠i} r_j = G/(G-1) (r_i - mean r)`.

    The others' mean does not depend on rewrite i, so the gradient stays unbiased.
    """
    group_size = rewards_N_G.shape[1]
    return (rewards_N_G - rewards_N_G.mean(1, keepdim=True)) * (group_size / (group_size - 1))


def divergence_per_position(log_p_P_V: torch.Tensor, log_q_P_V: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) in nats at each position, `[P]`: `Σ_v p_v (log p_v - log q_v)`."""
    return (log_p_P_V.exp() * (log_p_P_V - log_q_P_V)).sum(-1)


def policy_loss(
    log_prob_N_G: torch.Tensor, divergence_N_G: torch.Tensor, rewards_N_G: torch.Tensor, beta: float
) -> torch.Tensor:
    """A scalar whose gradient is an unbiased estimate of -∇J; its value means nothing.

    *Semantics*: `mean_i [ -A_i log ρ(x'_i) + β K_i ]`, A = leave_one_out(r - β K) without gradient: what a
    token does to the divergence at later positions counts like reward.

    Args:
        log_prob_N_G: log ρ(x') of the rewrites, in groups of one prompt each.
        divergence_N_G: K(x'), with gradient.
        rewards_N_G: r.
    """
    advantages_N_G = leave_one_out(rewards_N_G - beta * divergence_N_G.detach())
    return (beta * divergence_N_G - advantages_N_G * log_prob_N_G).mean()
