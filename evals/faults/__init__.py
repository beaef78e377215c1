"""What happens when things break: injected faults, the promises of the product, and figures."""
