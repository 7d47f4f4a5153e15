"""Helpers of tests: councils, pipelines, brokers, deployments, kill points. It holds no tests."""
