"""The recipe of the default specialists: LoRA adapters from rule-made lessons, and what they are worth."""
