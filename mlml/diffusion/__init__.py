"""Diffusion models but for their objective's file: noise, samplers, the denoising network, the encoder of captions."""
