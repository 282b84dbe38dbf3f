package auth

import (
	"crypto"
	_ "crypto/sha256" // linked in for crypto.Hash.New
	_ "crypto/sha512" // linked in for crypto.Hash.New
	"crypto/x509"
	"encoding/base64"
)

// Binding ties a SCRAM exchange to the certificate of the TLS connection it runs over, so that nobody in the middle
// can pass it on: tls-server-end-point of RFC 5929. The zero Binding offers no channel binding.
type Binding struct {
	header string // what a client must send as c=: the GS2 header and the hash of the certificate, in base64
}

const bindingHeader = "p=" + bindingType + ",,"

const bindingType = "tls-server-end-point"

// bindingHash is the hash to take of a certificate by its signature: the signature's own, but SHA-256 instead of MD5
// and SHA-1. Signatures without a hash of their own, such as Ed25519, are missing, because RFC 5929 leaves them
// undefined and libpq gives up on them.
var bindingHash = map[x509.SignatureAlgorithm]crypto.Hash{
	x509.MD5WithRSA:       crypto.SHA256,
	x509.SHA1WithRSA:      crypto.SHA256,
	x509.DSAWithSHA1:      crypto.SHA256,
	x509.ECDSAWithSHA1:    crypto.SHA256,
	x509.SHA256WithRSA:    crypto.SHA256,
	x509.SHA256WithRSAPSS: crypto.SHA256,
	x509.DSAWithSHA256:    crypto.SHA256,
	x509.ECDSAWithSHA256:  crypto.SHA256,
	x509.SHA384WithRSA:    crypto.SHA384,
	x509.SHA384WithRSAPSS: crypto.SHA384,
	x509.ECDSAWithSHA384:  crypto.SHA384,
	x509.SHA512WithRSA:    crypto.SHA512,
	x509.SHA512WithRSAPSS: crypto.SHA512,
	x509.ECDSAWithSHA512:  crypto.SHA512,
}

// NewBinding makes the Binding for connections that present this certificate; once per certificate, not per login. It
// is the zero Binding for a certificate that SCRAM-SHA-256-PLUS is not defined for.
func NewBinding(certificate *x509.Certificate) Binding {
	algorithm, ok := bindingHash[certificate.SignatureAlgorithm]
	if !ok {
		return Binding{}
	}
	h := algorithm.New()
	h.Write(certificate.Raw)
	return Binding{base64.StdEncoding.EncodeToString(h.Sum([]byte(bindingHeader)))}
}

// offered says whether SCRAM-SHA-256-PLUS is among the mechanisms.
func (b Binding) offered() bool { return b.header != "" }
