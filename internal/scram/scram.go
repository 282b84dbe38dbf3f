// Package scram is a client's part of SCRAM-SHA-256, for those who measure servers and log in thousands of times.
package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/weirproxy/weir/auth"
)

// Method is the name of the mechanism.
const Method = "SCRAM-SHA-256"

// maxIterations bounds what a server can make us compute; PostgreSQL's default is 4096.
const maxIterations = 1_000_000

// Exchange is a client's part of one exchange, without channel binding (RFC 5802, RFC 7677).
type Exchange struct {
	Keys     *Keys
	Password string

	nonce     string
	signature []byte // what the server has to prove in the end
}

// First answers the list of methods, each ended by a zero byte: the body of a SASLInitialResponse.
func (s *Exchange) First(methods string) ([]byte, error) {
	found := false
	for method := range strings.SplitSeq(methods, "\x00") {
		found = found || method == Method
	}
	if !found {
		return nil, fmt.Errorf("the server offers %q, and not %s", strings.Trim(strings.ReplaceAll(methods, "\x00", " "), " "), Method)
	}
	raw := make([]byte, 18)
	_, _ = rand.Read(raw) // never fails
	s.nonce = base64.StdEncoding.EncodeToString(raw)
	text := "n,,n=,r=" + s.nonce
	b := append([]byte(Method), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...), nil
}

var errChallenge = errors.New("the server's SCRAM challenge is malformed")

// Final answers the server's challenge: the body of a SASLResponse.
func (s *Exchange) Final(challenge string) ([]byte, error) {
	var nonce, salt string
	iterations := 0
	for field := range strings.SplitSeq(challenge, ",") {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "r":
			nonce = value
		case "s":
			salt = value
		case "i":
			iterations, _ = strconv.Atoi(value) // 0 is refused below
		}
	}
	if s.nonce == "" || !strings.HasPrefix(nonce, s.nonce) || iterations < 1 || iterations > maxIterations {
		return nil, errChallenge
	}
	salted, err := s.Keys.salted(s.Password, salt, iterations)
	if err != nil {
		return nil, err
	}
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	bare := "c=biws,r=" + nonce
	signed := "n=,r=" + s.nonce + "," + challenge + "," + bare
	proof := mac(stored[:], signed)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	s.signature = mac(mac(salted, "Server Key"), signed)
	return []byte(bare + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// Verify checks that the server knows the password, too.
func (s *Exchange) Verify(final string) error {
	proof, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(final, "v="))
	if err != nil || s.signature == nil || !hmac.Equal(proof, s.signature) {
		return errors.New("the server does not prove that it knows the password")
	}
	return nil
}

// Keys remembers what a password becomes with a salt. A server keeps the salt of a user, and thousands of iterations for
// each login would make the client what is measured. All methods are safe for concurrent use.
type Keys struct {
	mu    sync.Mutex // guards known
	known map[saltedWith][]byte
}

// NewKeys returns one that remembers nothing yet.
func NewKeys() *Keys { return &Keys{known: map[saltedWith][]byte{}} }

// mostKeys bounds what is remembered: a server that makes up a new salt each time must not fill the memory.
const mostKeys = 200

type saltedWith struct {
	password, salt string
	iterations     int
}

func (k *Keys) salted(password, salt string, iterations int) ([]byte, error) {
	with := saltedWith{password, salt, iterations}
	k.mu.Lock()
	key, ok := k.known[with]
	k.mu.Unlock()
	if ok {
		return key, nil
	}
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		return nil, errChallenge
	}
	if key, err = pbkdf2.Key(sha256.New, auth.Prepare(password), raw, iterations, sha256.Size); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) < mostKeys {
		k.known[with] = key
	}
	return key, nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// Verifier is what a server keeps of a password, in the form of pg_authid, with PostgreSQL's default of 4096 iterations. k
// remembers it, too.
func (k *Keys) Verifier(password string) (string, error) {
	const iterations = 4096
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails
	salt := base64.StdEncoding.EncodeToString(raw)
	key, err := k.salted(password, salt, iterations)
	if err != nil {
		return "", err
	}
	stored := sha256.Sum256(mac(key, "Client Key"))
	return fmt.Sprintf("%s$%d:%s$%s:%s", Method, iterations, salt, base64.StdEncoding.EncodeToString(stored[:]),
		base64.StdEncoding.EncodeToString(mac(key, "Server Key"))), nil
}
