#!/bin/sh
# Certificates for the calls between the services: `sh certificates.sh FOLDER HOST...`
#
# Makes an authority in FOLDER, unless there is one, and signs a certificate for each HOST (a name or an address, as it
# stands in `meta` and `hubs`). Run it again for another host, or for one whose certificate ends. FOLDER/ca.key can make
# anybody a service: keep it where no server reads it.
#
# On each host go ca.pem, HOST.pem and HOST.key; deploy/syncline.toml has the settings.
set -eu

# A certificate's time. Renew at half of it.
days=365
authority_days=3650

folder=${1:?"usage: certificates.sh FOLDER HOST..."}
shift
umask 077
mkdir -p "$folder"

if [ ! -e "$folder/ca.key" ]; then
    openssl ecparam -name prime256v1 -genkey -noout -out "$folder/ca.key"
    openssl req -x509 -new -key "$folder/ca.key" -sha256 -days "$authority_days" -out "$folder/ca.pem" \
        -subj "/CN=Syncline services" -addext "keyUsage=critical,keyCertSign"
fi

for host in "$@"; do
    case $host in
        # No name has a colon, and none is digits and dots alone.
        *:*) kind=IP ;;
        *[!0-9.]*) kind=DNS ;;
        *) kind=IP ;;
    esac
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$folder/$host.key"
    openssl req -new -key "$folder/$host.key" -subj "/CN=$host" -out "$folder/$host.csr"
    # Each process answers others and calls them, with the same certificate.
    printf 'subjectAltName=%s:%s\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n' \
        "$kind" "$host" > "$folder/$host.ext"
    openssl x509 -req -in "$folder/$host.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial -sha256 \
        -days "$days" -extfile "$folder/$host.ext" -out "$folder/$host.pem"
    rm "$folder/$host.csr" "$folder/$host.ext"
done
