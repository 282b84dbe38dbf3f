package auth_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

func sha256Of(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }
func sha384Of(b []byte) []byte { sum := sha512.Sum384(b); return sum[:] }
func sha512Of(b []byte) []byte { sum := sha512.Sum512(b); return sum[:] }

// RFC 5929, section 4.1; libpq and pgx agree. A signature without a hash offers no PLUS: libpq 15 fails the login with
// "could not find digest for NID UNDEF" when a server offers it with an Ed25519 certificate.
func TestTheCertificateIsHashedByItsSignature(t *testing.T) {
	tests := map[x509.SignatureAlgorithm]func([]byte) []byte{
		x509.MD5WithRSA:                sha256Of,
		x509.SHA1WithRSA:               sha256Of,
		x509.DSAWithSHA1:               sha256Of,
		x509.ECDSAWithSHA1:             sha256Of,
		x509.SHA256WithRSA:             sha256Of,
		x509.SHA256WithRSAPSS:          sha256Of,
		x509.DSAWithSHA256:             sha256Of,
		x509.ECDSAWithSHA256:           sha256Of,
		x509.SHA384WithRSA:             sha384Of,
		x509.SHA384WithRSAPSS:          sha384Of,
		x509.ECDSAWithSHA384:           sha384Of,
		x509.SHA512WithRSA:             sha512Of,
		x509.SHA512WithRSAPSS:          sha512Of,
		x509.ECDSAWithSHA512:           sha512Of,
		x509.PureEd25519:               nil,
		x509.UnknownSignatureAlgorithm: nil,
	}
	users := usersOf(t, auth.SCRAM, auth.NewKey(), map[string]string{"app": postgresVerifier})
	for algorithm, hash := range tests {
		t.Run(algorithm.String(), func(t *testing.T) {
			binding := auth.NewBinding(&x509.Certificate{Raw: []byte("certificate"), SignatureAlgorithm: algorithm})
			x := users.Begin("app", binding)
			out, done, err := x.Start(nil)
			if hash == nil {
				want(t, out, done, err, false, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
				return
			}
			want(t, out, done, err, false, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}})
			x.SetServerNonce(serverNonce)
			const first = "n=,r=" + clientNonce
			channel := base64.StdEncoding.EncodeToString(append([]byte(plusHeader), hash([]byte("certificate"))...))
			runs(t, x, [][]byte{
				initialResponse("SCRAM-SHA-256-PLUS", plusHeader+first),
				[]byte(clientFinal(t, "correct horse", channel, first, "r="+clientNonce+serverNonce+",s="+salt16+",i=4096")),
			}, auth.Failure{})
		})
	}
}
