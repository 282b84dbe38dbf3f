package fleet

import "context"

// Ping asks the Redis that cfg names whether it is there and lets us in, without joining the fleet.
func Ping(ctx context.Context, cfg Config) error {
	client, err := newClient(cfg.Redis)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx).Err()
}
