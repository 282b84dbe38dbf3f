package pgtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// scramClient is the client's side of SCRAM-SHA-256 without channel binding (RFC 5802, 7677). It is written apart from
// the product's own, so that neither can hide a mistake of the other. Passwords must be ASCII: there is no SASLprep.
type scramClient struct {
	password string
	nonce    string
	messages string // the exchange so far, as both sides sign it
	key      []byte // salted password
}

const scramHeader = "n,,"

func newSCRAMClient(password string) *scramClient {
	return &scramClient{password: password, nonce: rand.Text()}
}

func (s *scramClient) first() []byte {
	s.messages = "n=,r=" + s.nonce
	return []byte(scramHeader + s.messages)
}

// answer turns the server's first message into our final one.
func (s *scramClient) answer(serverFirst []byte) ([]byte, error) {
	fields := scramFields(string(serverFirst))
	if !strings.HasPrefix(fields["r"], s.nonce) || fields["r"] == s.nonce {
		return nil, errors.New("scram: the server's nonce does not extend ours")
	}
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	if err != nil {
		return nil, fmt.Errorf("scram: salt: %w", err)
	}
	iterations, err := strconv.Atoi(fields["i"])
	if err != nil {
		return nil, fmt.Errorf("scram: iterations: %w", err)
	}
	if s.key, err = pbkdf2.Key(sha256.New, s.password, salt, iterations, sha256.Size); err != nil {
		return nil, fmt.Errorf("scram: %w", err)
	}

	final := "c=" + base64.StdEncoding.EncodeToString([]byte(scramHeader)) + ",r=" + fields["r"]
	s.messages += "," + string(serverFirst) + "," + final

	clientKey := mac(s.key, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	proof := mac(storedKey[:], s.messages)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// verify checks that the server knows the password too.
func (s *scramClient) verify(serverFinal []byte) error {
	signature, err := base64.StdEncoding.DecodeString(scramFields(string(serverFinal))["v"])
	if err != nil {
		return fmt.Errorf("scram: signature: %w", err)
	}
	if !bytes.Equal(signature, mac(mac(s.key, "Server Key"), s.messages)) {
		return errors.New("scram: the server does not know the password")
	}
	return nil
}

func scramFields(message string) map[string]string {
	fields := map[string]string{}
	for field := range strings.SplitSeq(message, ",") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	return fields
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
