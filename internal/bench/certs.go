package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificate names a self-signed certificate and its key on disk. The zero value means no TLS.
type certificate struct {
	kind      string // what the report calls it
	cert, key string // paths
}

// makeCertificates writes one certificate with a P-256 key and one with an RSA-2048 key.
func makeCertificates(dir string, owner int) (p256, rsa2048 certificate, err error) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return p256, rsa2048, err
	}
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return p256, rsa2048, err
	}
	if p256, err = writeCertificate(dir, "P-256", ec, owner); err != nil {
		return p256, rsa2048, err
	}
	rsa2048, err = writeCertificate(dir, "RSA-2048", old, owner)
	return p256, rsa2048, err
}

func writeCertificate(dir, kind string, key crypto.Signer, owner int) (certificate, error) {
	about := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &about, &about, key.Public(), key)
	if err != nil {
		return certificate{}, fmt.Errorf("certificate with %s: %w", kind, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certificate{}, err
	}
	c := certificate{kind: kind, cert: filepath.Join(dir, kind+".crt"), key: filepath.Join(dir, kind+".key")}
	if err := writePEM(c.cert, "CERTIFICATE", der, owner); err != nil {
		return certificate{}, err
	}
	return c, writePEM(c.key, "PRIVATE KEY", secret, owner)
}

// writePEM leaves the file to the user that PgBouncer runs as.
func writePEM(path, typ string, der []byte, owner int) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.Chown(path, owner, -1)
}
