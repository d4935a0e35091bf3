"""Pure planning: what a client asked for + what is loaded + what the operator allows -> a frozen plan.

Nothing here knows a device, the network, a clock or vLLM.
"""
