package storm

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

	"golang.org/x/text/secure/precis"
)

const scramMethod = "SCRAM-SHA-256"

// maxIterations bounds what a server can make us compute; PostgreSQL's default is 4096.
const maxIterations = 1_000_000

// scram is the client's part of one SCRAM-SHA-256 exchange, without channel binding (RFC 5802, RFC 7677).
type scram struct {
	keys     *scramKeys
	password string

	nonce     string
	signature []byte // what the server has to prove in the end
}

// first answers the list of methods, each ended by a zero byte.
func (s *scram) first(methods string) ([]byte, error) {
	found := false
	for method := range strings.SplitSeq(methods, "\x00") {
		found = found || method == scramMethod
	}
	if !found {
		return nil, fmt.Errorf("the server offers %q, and not %s", strings.Trim(strings.ReplaceAll(methods, "\x00", " "), " "), scramMethod)
	}
	raw := make([]byte, 18)
	_, _ = rand.Read(raw) // never fails
	s.nonce = base64.StdEncoding.EncodeToString(raw)
	text := "n,,n=,r=" + s.nonce
	b := append([]byte(scramMethod), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...), nil
}

var errChallenge = errors.New("the server's SCRAM challenge is malformed")

// final answers the server's challenge.
func (s *scram) final(challenge string) ([]byte, error) {
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
	salted, err := s.keys.salted(s.password, salt, iterations)
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

// verify checks that the server knows the password, too.
func (s *scram) verify(final string) error {
	proof, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(final, "v="))
	if err != nil || s.signature == nil || !hmac.Equal(proof, s.signature) {
		return errors.New("the server does not prove that it knows the password")
	}
	return nil
}

// scramKeys remembers what a password becomes with a salt. A server keeps the salt of a user, and thousands of iterations for
// each of a storm's logins would make the generator what is measured.
type scramKeys struct {
	mu    sync.Mutex // guards known
	known map[saltedWith][]byte
}

type saltedWith struct {
	password, salt string
	iterations     int
}

func (k *scramKeys) salted(password, salt string, iterations int) ([]byte, error) {
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
	if prepared, err := precis.OpaqueString.String(password); err == nil { // otherwise as it is, like libpq
		password = prepared
	}
	if key, err = pbkdf2.Key(sha256.New, password, raw, iterations, sha256.Size); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) < 2*MaxCallers { // a server that makes up a new salt each time must not fill the memory
		k.known[with] = key
	}
	return key, nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
