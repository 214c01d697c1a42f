"""The PCM application `pcmapp`: what the logged-on user sees, chooses and postpones. Unprivileged; asks the service."""
