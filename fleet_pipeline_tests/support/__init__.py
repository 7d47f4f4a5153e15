"""What tests are made with: councils, pipelines, brokers, deployments, kill points. No test stands here."""
