"""The recipe of the default specialists: LoRA adapters made on a CPU, from rule-made lessons."""
