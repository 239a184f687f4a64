"""LoRA experts: trained, kept in a bank, routed to, asked."""
