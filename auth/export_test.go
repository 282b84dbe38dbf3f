package auth

// SetServerNonce replaces the random nonce, after Start, by that of a test vector.
func (x *Exchange) SetServerNonce(nonce string) { x.scram.serverNonce = []byte(nonce) }
