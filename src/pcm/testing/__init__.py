"""Real fakes and the fleet simulator that ship with the product."""
