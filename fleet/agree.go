package fleet

import (
	"context"
	"encoding/hex"
	"fmt"
)

// Agree returns the bytes that the fleet has under a name: those of the first weir that has proposed some. They outlive all
// weirs, as long as Redis remembers anything. It blocks as long as Redis may take, and fails at once while Redis is known to
// be out of reach, or when what is there is not as long as what is proposed.
func (f *Fleet) Agree(ctx context.Context, name string, proposed []byte) ([]byte, error) {
	if f == nil || !f.up.Load() {
		return nil, ErrDown
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := f.prefix + name
	if err := f.client.SetNX(ctx, key, hex.EncodeToString(proposed), 0).Err(); err != nil {
		return nil, fmt.Errorf("propose %s: %w", name, err)
	}
	text, err := f.client.Get(ctx, key).Result()
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", name, err)
	}
	agreed, err := hex.DecodeString(text)
	if err != nil || len(agreed) != len(proposed) {
		return nil, fmt.Errorf("what Redis has as %s is not %d bytes in hexadecimal digits; delete it", key, len(proposed))
	}
	return agreed, nil
}
