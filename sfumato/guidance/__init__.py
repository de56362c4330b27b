"""Guidance: functions that wrap a denoiser; arithmetic on estimates."""
