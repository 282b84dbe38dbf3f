# docker build --build-arg VERSION=v0.1.0 -t weir .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /weir ./cmd/weir

# Nothing but the program, and the certificates of public authorities to check servers against.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /weir /weir
# A number, not a name: Kubernetes' runAsNonRoot has to see that it is not 0.
USER 65532:65532
EXPOSE 6432 8432
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/weir", "healthcheck"]
ENTRYPOINT ["/weir"]
CMD ["serve", "--config", "/etc/weir/weir.yaml"]
