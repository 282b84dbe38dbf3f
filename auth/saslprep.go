package auth

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

//go:generate python3 gen_saslprep.py

// Prepare is a password as SCRAM takes it, on the side of the client, too.
func Prepare(password string) string { return saslprep(password) }

// saslprep prepares a password for SCRAM the way PostgreSQL does, so that a verifier made here and one made there agree.
//
// It is RFC 4013 with PostgreSQL's three liberties: what is all ASCII is left as it is, control characters included;
// what RFC 4013 forbids, or is no UTF-8, is used raw instead of being refused; and the checks look at the text before
// it is normalized. The tables are those of Unicode 3.2 and stay so: newer ones would change old passwords.
func saslprep(password string) string {
	if isASCII(password) || !utf8.ValidString(password) {
		return password
	}
	mapped := strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(nonASCIISpace, r):
			return ' '
		case unicode.Is(mappedToNothing, r):
			return -1
		}
		return r
	}, password)
	if mapped == "" || strings.ContainsFunc(mapped, forbidden) || !bidiAllowed(mapped) {
		return password
	}
	return norm.NFKC.String(mapped)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func forbidden(r rune) bool {
	return unicode.Is(prohibited, r) || unicode.Is(unassigned, r)
}

// bidiAllowed is RFC 3454, section 6: text with a letter written from right to left has none written from left to
// right, and begins and ends with such a letter.
func bidiAllowed(s string) bool {
	rightToLeft := func(r rune) bool { return unicode.Is(randALCat, r) }
	if !strings.ContainsFunc(s, rightToLeft) {
		return true
	}
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	leftToRight := func(r rune) bool { return unicode.Is(lCat, r) }
	return rightToLeft(first) && rightToLeft(last) && !strings.ContainsFunc(s, leftToRight)
}
