"""The steps of one run, one file each, in the order of `pcm.service.runner.STEPS`. Each is journalled before and after."""
