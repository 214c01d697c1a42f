"""The PCM application: what the person at the computer sees and asks for. It has no rights of its own."""
