package auth_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// initialResponse is the body of a SASLInitialResponse.
func initialResponse(mechanism, message string) []byte {
	body := append([]byte(mechanism), 0)
	body = binary.BigEndian.AppendUint32(body, uint32(len(message)))
	return append(body, message...)
}

// clientFinal answers a server-first-message as a client that knows the password does.
func clientFinal(tb testing.TB, password, channel, firstBare, serverFirst string) string {
	tb.Helper()
	var nonce, saltBase64 string
	var iterations int
	parts := strings.Split(serverFirst, ",")
	if len(parts) != 3 {
		tb.Fatalf("server-first-message %q has not three parts", serverFirst)
	}
	nonce, saltBase64 = parts[0][2:], parts[1][2:]
	if _, err := fmt.Sscanf(parts[2], "i=%d", &iterations); err != nil {
		tb.Fatal(err)
	}
	salt, err := base64.StdEncoding.DecodeString(saltBase64)
	if err != nil {
		tb.Fatal(err)
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		tb.Fatal(err)
	}
	clientKey := mac(salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	final := "c=" + channel + ",r=" + nonce
	signature := mac(storedKey[:], firstBare+","+serverFirst+","+final)
	for i := range clientKey {
		clientKey[i] ^= signature[i]
	}
	return final + ",p=" + base64.StdEncoding.EncodeToString(clientKey)
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

// verifier makes a SCRAM verifier as PostgreSQL writes it.
func verifier(tb testing.TB, password string, salt []byte, iterations int) string {
	tb.Helper()
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		tb.Fatal(err)
	}
	storedKey := sha256.Sum256(mac(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(storedKey[:]), encode(mac(salted, "Server Key")))
}

// usersOf makes a table of users from secrets as an operator writes them.
func usersOf(tb testing.TB, method auth.Method, key auth.Key, secrets map[string]string) *auth.Users {
	tb.Helper()
	parsed := map[string]auth.Secret{}
	for user, secret := range secrets {
		if secret == "" {
			parsed[user] = auth.Secret{}
			continue
		}
		s, err := auth.ParseSecret(secret)
		if err != nil {
			tb.Fatalf("user %s: %v", user, err)
		}
		parsed[user] = s
	}
	users, err := auth.NewUsers(method, key, parsed)
	if err != nil {
		tb.Fatal(err)
	}
	return users
}

// decode takes Authentication messages apart.
func decode(tb testing.TB, out []byte) (messages []pgproto3.BackendMessage) {
	tb.Helper()
	for len(out) > 0 {
		f := pgproto3.NewFrontend(bytes.NewReader(out), nil)
		m, err := f.Receive()
		if err != nil {
			tb.Fatalf("messages %q: %v", out, err)
		}
		messages = append(messages, m)
		out = out[1+binary.BigEndian.Uint32(out[1:]):]
	}
	return messages
}
