"""The worker's side: vLLM's LoRA managers with the bank in place of one adapter per request.

vLLM hands every step's distinct `LoRARequest`s and a per-token map of their ids to the worker manager; here
a `LoRARequest` is a plan, and the map fills the gates.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.layers import BaseLayerWithLoRA, LoRAMapping
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

from steer_server.engine.bank import GateTable, LayerBank
from steer_server.engine.base_weights import base_weight, pack_the_rest
from steer_server.engine.packed import packed_if_possible
from steer_server.engine.reward_tap import RewardTapExtension
from steer_server.steering.plan import SteeringPlan

BANK_KEY = "steer_bank"
"""Key of `--additional-config` that holds the bank's shape; vLLM hashes it into its compile cache."""

WARM_UP_PREFIX = "warmup_"
"""Names of vLLM's own dummy requests; they carry no plan."""


class GatePunicaWrapper(PunicaWrapperBase):
    """Fills the gates before each step. The layers do their own sums: see LayerPunica."""

    gates: GateTable

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: Any, max_loras: int, vocab_size: int, **_: Any
    ) -> None:
        self.gates.fill(mapping.index_mapping)

    def _unused(self, *_: Any, **__: Any) -> torch.Tensor | None:
        raise NotImplementedError("the bank replaces this operation")

    add_shrink = add_expand = add_lora_embedding = add_lora_linear = _unused
    add_lora_logits = apply_lora_full_linear = _unused


class LayerPunica:
    """What a wrapped layer that makes its own output calls in place of vLLM's shared punica wrapper."""

    def __init__(self, bank: LayerBank) -> None:
        self.bank = bank

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.bank.add_to(y, x)
        return y


class BankModelManager(LRUCacheLoRAModelManager):
    """Wraps the model's linear layers as vLLM does, and gives each its part of the bank."""

    def __init__(self, *args: Any, vllm_config: Any, **kwargs: Any) -> None:
        shape = vllm_config.additional_config[BANK_KEY]
        self.num_bank_slots: int = shape["slots"]
        self.bank_rank: int = shape["rank"]
        self.layer_banks: dict[str, LayerBank] = {}
        super().__init__(*args, vllm_config=vllm_config, **kwargs)

    @property
    def lora_slots(self) -> int:
        """Slots of the bank, which has nothing to do with vLLM's `max_loras` (distinct plans a step)."""
        return self.num_bank_slots

    @property
    def capacity(self) -> int:
        return self.num_bank_slots

    def _init_punica_wrapper(self, max_num_batched_tokens: int, vllm_config: Any) -> None:
        super()._init_punica_wrapper(max_num_batched_tokens, vllm_config)
        scheduler = vllm_config.scheduler_config
        self.gates = GateTable(
            num_plans=max(256, 2 * scheduler.max_num_seqs),
            num_tokens=max(self.max_num_batched_tokens, scheduler.max_num_seqs),
            width=self.num_bank_slots * self.bank_rank,
            dtype=self.lora_config.lora_dtype,
            device=torch.device(self.device),
        )
        for wrapper in self.punica_wrapper_mapping.values():
            wrapper.gates = self.gates

    def register_module(self, module_name: str, module: BaseLayerWithLoRA) -> None:
        """Swaps the tensors that vLLM just made for views of the bank, one layer at a time, so that both
        never exist for the whole model at once."""
        super().register_module(module_name, module)
        if not hasattr(module, "lora_a_stacked") or not hasattr(module, "output_slices"):
            raise ValueError(f"{module_name}: {type(module).__name__} cannot be steered by the bank")
        width = self.num_bank_slots * self.bank_rank
        weight = base_weight(module.base_layer, self.lora_config.lora_dtype, width)
        bank = LayerBank(
            in_features=module.lora_a_stacked[0].shape[-1],
            out_slices=[b.shape[2] for b in module.lora_b_stacked],
            num_slots=self.num_bank_slots,
            rank=self.bank_rank,
            gates=self.gates,
            dtype=self.lora_config.lora_dtype,
            device=torch.device(self.device),
            weight_O_I=weight,
            products=packed_if_possible,
        )
        if weight is not None:
            module.base_layer.weight = torch.nn.Parameter(bank.products.weight_O_I, requires_grad=False)
        module.lora_a_stacked, module.lora_b_stacked = bank.a_views(), bank.b_views()
        self.layer_banks[module_name] = bank

    def use_layer_banks(self) -> None:
        """Gives every layer its own object to call; done last, because vLLM sets its shared one."""
        for module_name, bank in self.layer_banks.items():
            module = self.modules[module_name]
            if bank.has_base:
                module.apply = bank.forward
            else:
                module.set_mapping(LayerPunica(bank))

    def write_slot(self, slot: int, lora: Any) -> int:
        """Writes a loaded adapter into a slot. Returns: the number of layers that it changes."""
        self._create_merged_loras_inplace(lora)
        num_layers = 0
        for module_name, module in self.modules.items():
            weights = self._get_lora_layer_weights(lora, module_name)
            if weights is None:
                module.reset_lora(slot)
                continue
            module.set_lora(slot, weights.lora_a, weights.lora_b)
            num_layers += 1
        self._refresh()
        return num_layers

    def clear_slot(self, slot: int) -> None:
        for module in self.modules.values():
            module.reset_lora(slot)
        self._refresh()

    def _refresh(self) -> None:
        for bank in self.layer_banks.values():
            bank.refresh()


class BankWorkerManager(LRUCacheWorkerLoRAManager):
    """Knows which adapter is in which slot, and turns plans into gate vectors."""

    _manager_cls = BankModelManager
    _adapter_manager: BankModelManager

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot_of: dict[str, int] = {}
        """Slot by content digest."""

    def create_lora_manager(self, model: torch.nn.Module, vllm_config: Any) -> Any:
        wrapped = super().create_lora_manager(model, vllm_config)
        self._adapter_manager.use_layer_banks()
        pack_the_rest(model)
        return wrapped

    def load_slot(self, slot: int, digest: str, folder: str) -> int:
        """Loads an adapter folder into a slot, whose former adapter is gone.

        Returns: the number of layers that it changes.
        Raises: ValueError when it changes none; the slot is then empty.
        """
        self._forget_slot(slot)
        lora = self._load_adapter(LoRARequest(digest, slot + 1, folder))
        try:
            num_layers = self._adapter_manager.write_slot(slot, lora)
        except Exception:
            self._adapter_manager.clear_slot(slot)
            raise
        if num_layers == 0:
            raise ValueError("the adapter changes no layer of this model")
        self.slot_of[digest] = slot
        return num_layers

    def clear_slot(self, slot: int) -> None:
        self._forget_slot(slot)
        self._adapter_manager.clear_slot(slot)

    def _forget_slot(self, slot: int) -> None:
        self.slot_of = {digest: s for digest, s in self.slot_of.items() if s != slot}
        # A plan's gates depend on where its adapters are: compute them anew when it is next seen.
        self._adapter_manager.gates.forget_all()
        self._adapter_manager._last_mapping = None

    def _apply_adapters(self, lora_requests: set[LoRARequest]) -> None:
        gates = self._adapter_manager.gates
        in_step = {request.lora_int_id for request in lora_requests}
        for request in lora_requests:
            if not gates.knows(request.lora_int_id):
                gates.put(request.lora_int_id, self._gate_vector(request), keep=in_step)

    def _gate_vector(self, request: LoRARequest) -> list[float]:
        rank = self._adapter_manager.bank_rank
        vector = [0.0] * (self._adapter_manager.num_bank_slots * rank)
        if request.lora_name.startswith(WARM_UP_PREFIX):
            return vector
        for adapter in SteeringPlan.from_json(request.lora_path).adapters:
            start = self.slot_of[adapter.digest] * rank
            vector[start : start + rank] = adapter.gates(rank)
        return vector

    def add_adapter(self, lora_request: LoRARequest) -> bool:
        raise ValueError("adapters are loaded through the catalogue, not as vLLM LoRA modules")

    def add_dummy_lora(self, lora_request: LoRARequest, rank: int) -> bool:
        return True

    def remove_all_adapters(self) -> None:
        """Called after warm-up: forgets plans, keeps the bank."""
        self._adapter_manager.gates.forget_all()
        self._adapter_manager._last_mapping = None

    def remove_adapter(self, adapter_id: int) -> bool:
        return False

    def list_adapters(self) -> set[int]:
        return set()


class BankWorkerExtension(RewardTapExtension):
    """Methods that the API process calls on every worker with `collective_rpc`."""

    model_runner: Any

    def steer_load_slot(self, slot: int, digest: str, folder: str) -> int:
        manager: BankWorkerManager = self.model_runner.lora_manager
        return manager.load_slot(slot, digest, folder)

    def steer_clear_slot(self, slot: int) -> None:
        manager: BankWorkerManager = self.model_runner.lora_manager
        manager.clear_slot(slot)

    def steer_bank_info(self) -> dict[str, Any]:
        """Shape and bytes of the bank, and whether the model runs compiled."""
        manager: BankModelManager = self.model_runner.lora_manager._adapter_manager
        banks = manager.layer_banks.values()
        return {
            "slots": manager.num_bank_slots,
            "rank": manager.bank_rank,
            "layers": len(manager.layer_banks),
            "bytes": sum(bank.num_bytes for bank in banks),
            "copies": max(bank.products.copies for bank in banks),
            "compilation_mode": str(self.model_runner.vllm_config.compilation_config.mode),
        }
