# One image for every role: `docker run shoal agent`, and so on. `make image` builds it.
#
# Both base images are arguments, for mirrors and for other versions:
#   docker build --build-arg RUST_IMAGE=mirror.example/rust:1.95-bookworm -t shoal .
# RUST_IMAGE needs cargo, a C compiler and /etc/ssl/certs/ca-certificates.crt.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG FINAL_IMAGE=scratch

FROM ${RUST_IMAGE} AS build
# Flags of cargo, such as --offline.
ARG CARGO_FLAGS=
WORKDIR /src
COPY . .
RUN CARGO_TARGET_DIR=/target cargo build --release --locked -p shoal ${CARGO_FLAGS}
# /out/root is what the image has, /out/owned what its user may write to: volumes that are mounted
# there for the first time get its owner.
RUN mkdir -p /out/root/etc/ssl/certs /out/owned/data /out/owned/keys /out/owned/public /out/owned/tls \
 && cp /target/*/release/shoal /out/root/shoal \
 && cp /etc/ssl/certs/ca-certificates.crt /out/root/etc/ssl/certs/

FROM ${FINAL_IMAGE}
COPY --from=build /out/root/ /
COPY --from=build --chown=65532:65532 /out/owned/ /
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/shoal"]
CMD ["--help"]
