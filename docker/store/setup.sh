#!/bin/sh
# Bucket, policies and keys of the workspace, by SeaweedFS's own shell. Run again, it brings changed policies and keys into force.
set -eu

bucket=mammo-workspace

shell() {
  weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888
}

buckets=$(echo "s3.bucket.list" | shell)
case $buckets in
  *" $bucket	"*) ;;
  *) echo "s3.bucket.create -name=$bucket" | shell ;;
esac

shell <<END
s3.policy -put -name=etl -file=/policies/etl.json
s3.policy -put -name=gc -file=/policies/gc.json
s3.policy -put -name=train -file=/policies/train.json
END

# All users at once: in the place of those before, whose keys open nothing from then on. Clearing up runs in the pool of builds, with its keys.
users=$(mktemp)
cat > "$users" <<END
{"identities": [
  {"name": "etl", "credentials": [{"accessKey": "$ETL_KEY", "secretKey": "$ETL_SECRET"}], "policyNames": ["etl", "gc"]},
  {"name": "train", "credentials": [{"accessKey": "$TRAIN_KEY", "secretKey": "$TRAIN_SECRET"}], "policyNames": ["train"]}
]}
END
echo "s3.iam.import -file=$users -apply" | shell
rm "$users"
echo "s3.user.list" | shell
