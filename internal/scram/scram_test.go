package scram_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/scram"
)

func TestProofsFitTheVerifier(t *testing.T) {
	keys := scram.NewKeys()
	secret, err := keys.Verifier("secret")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.FieldsFunc(secret, func(r rune) bool { return r == '$' || r == ':' })
	if len(parts) != 5 || parts[0] != scram.Method {
		t.Fatalf("verifier %q", secret)
	}
	stored, server := decoded(t, parts[3]), decoded(t, parts[4])

	for password, want := range map[string]bool{"secret": true, "guess": false} {
		client := scram.Exchange{Keys: keys, Password: password}
		first, err := client.First("SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00")
		if err != nil {
			t.Fatal(err)
		}
		_, bare, _ := strings.Cut(string(first), "n,,")
		challenge := bare[strings.Index(bare, "r="):] + "server,s=" + parts[2] + ",i=" + parts[1]
		final, err := client.Final(challenge)
		if err != nil {
			t.Fatal(err)
		}
		without, proof, _ := strings.Cut(string(final), ",p=")
		signed := bare + "," + challenge + "," + without
		key := decoded(t, proof)
		for i, b := range mac(stored, signed) {
			key[i] ^= b
		}
		sum := sha256.Sum256(key)
		if got := hmac.Equal(sum[:], stored); got != want {
			t.Errorf("the server accepts %q: %v, want %v", password, got, want)
		}
		err = client.Verify("v=" + base64.StdEncoding.EncodeToString(mac(server, signed)))
		if got := err == nil; got != want {
			t.Errorf("the client with %q accepts the server: %v, want %v", password, got, want)
		}
	}
}

func TestBadChallengesAreRefused(t *testing.T) {
	for name, rest := range map[string]string{
		"another nonce":            "r=other,s=c2FsdA==,i=4096",
		"no iterations":            "s=c2FsdA==",
		"iterations without end":   "s=c2FsdA==,i=2000000000",
		"iterations below nothing": "s=c2FsdA==,i=-1",
		"a salt that is none":      "s=?,i=4096",
	} {
		client := scram.Exchange{Keys: scram.NewKeys(), Password: "secret"}
		first, err := client.First("SCRAM-SHA-256\x00\x00")
		if err != nil {
			t.Fatal(err)
		}
		challenge := rest
		if !strings.HasPrefix(rest, "r=") {
			_, nonce, _ := strings.Cut(string(first), "r=")
			challenge = "r=" + nonce + "server," + rest
		}
		if answer, err := client.Final(challenge); err == nil {
			t.Errorf("%s: answered with %q", name, answer)
		}
	}
	var client scram.Exchange
	if _, err := client.First("OAUTHBEARER\x00\x00"); err == nil || !strings.Contains(err.Error(), "OAUTHBEARER") {
		t.Errorf("a server without the mechanism: %v", err)
	}
}

func decoded(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
